# SCRAM-SHA-256 as RFC 5802 and 7677 have it, written by somebody who has not read our code.
import base64, hashlib, hmac, os

def encode(text): return base64.b64encode(text.encode()).decode()
def decode(text): return base64.b64decode(text).decode()

def prove(user, secret, ask):
    """Proves that we know the secret, and that the server does. `ask` says a message and returns the answer to it."""
    nonce = base64.b64encode(os.urandom(18)).decode()
    bare = "n=" + user + ",r=" + nonce
    first = ask("n,," + bare)
    part = dict(field.split("=", 1) for field in first.split(","))
    assert part["r"].startswith(nonce) and len(part["r"]) > len(nonce)
    salted = hashlib.pbkdf2_hmac("sha256", secret.encode(), base64.b64decode(part["s"]), int(part["i"]))
    mac = lambda key, text: hmac.new(key, text, "sha256").digest()
    key = mac(salted, b"Client Key")
    last = "c=biws,r=" + part["r"]
    said = ",".join([bare, first, last]).encode()
    proof = bytes(a ^ b for a, b in zip(key, mac(hashlib.sha256(key).digest(), said)))
    server = ask(last + ",p=" + base64.b64encode(proof).decode())
    assert server == "v=" + base64.b64encode(mac(mac(salted, b"Server Key"), said)).decode()
