//! MD5 (RFC 1321), for APOP and nothing else: it can be broken, and our library of cryptography rightly has it no more.

/// RFC 1321 §3.4: how far each of the 64 steps rotates.
const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// The digest of a message.
pub(crate) fn md5(message: &[u8]) -> [u8; 16] {
    // §3.1, §3.2: a one bit, zeros, and the length in bits, so that the whole is a multiple of 64 octets.
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64), 0);
    let end = padded.len() - 8;
    padded[end..].copy_from_slice(&(message.len() as u64 * 8).to_le_bytes());
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(64) {
        let word = |index: usize| {
            let octets = &block[index * 4..][..4];
            u32::from_le_bytes([octets[0], octets[1], octets[2], octets[3]])
        };
        let [mut a, mut b, mut c, mut d] = state;
        for step in 0..64 {
            let (mixed, index) = match step / 16 {
                0 => ((b & c) | (!b & d), step),
                1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
                2 => (b ^ c ^ d, (3 * step + 5) % 16),
                _ => (c ^ (b | !d), 7 * step % 16),
            };
            // §3.4: T[i] is the integer part of 4294967296 times abs(sin(i)).
            #[expect(clippy::cast_sign_loss, reason = "an absolute value")]
            let sine = (f64::from(step as u32 + 1).sin().abs() * 4_294_967_296.0) as u32;
            let sum = a.wrapping_add(mixed).wrapping_add(sine).wrapping_add(word(index));
            let turned = b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4]));
            (a, b, c, d) = (d, turned, b, c);
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let mut digest = [0; 16];
    for (octets, part) in digest.chunks_exact_mut(4).zip(state) {
        octets.copy_from_slice(&part.to_le_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(message: &[u8]) -> String {
        md5(message).iter().fold(String::new(), |hex, octet| hex + &format!("{octet:02x}"))
    }

    #[test]
    fn the_test_suite_of_the_rfc_and_every_length_of_padding() {
        for (message, digest) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
            (&"1234567890".repeat(8), "57edf4a22be3c955ac49da2e2107b67a"),
            // RFC 1939 §7.
            ("<1896.697170952@dbc.mtview.ca.us>tanstaaf", "c4c9334bac560ecc979e58001b3e22fb"),
        ] {
            assert_eq!(hex(message.as_bytes()), digest, "{message}");
        }
        // The digests of a, aa, aaa ... up to 129 octets, digested.
        let all: String = (0..130).map(|length| hex(&vec![b'a'; length])).collect();
        assert_eq!(hex(all.as_bytes()), "8e96233fcf7b25e501680d371857c2ee");
    }
}
