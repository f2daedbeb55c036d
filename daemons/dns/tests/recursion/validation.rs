//! DNSSEC: what is signed is validated from the root's key down, and who lies is found out (RFC 4035 §5).

use super::internet::{
    CREPES, FR, HONEST, Internet, LIAR, ROOT, addresses, explained, explanation, middleman, query_with,
};
use dns::{
    message::Rcode,
    name::Name,
    rdata::Type,
    record::{Message, Record},
};
use std::sync::atomic::Ordering;

/// RCODE, whether AD is set, and the addresses.
fn gist(message: &Message) -> (Rcode, bool, Vec<String>) {
    (message.header.rcode(), message.header.authentic_data(), addresses(message))
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

const AD: u8 = 0x20;
const CD: u8 = 0x10;

#[tokio::test]
async fn what_is_signed_from_the_root_down_is_authentic() {
    let internet = Internet::signed(|_| {});
    let want = (Rcode::NOERROR, true, strings(&["192.0.2.1", "192.0.2.2"]));
    // RFC 6840 §5.7 and §5.8: AD for those who ask for it, by AD or by DO.
    let cold = internet.send(&query_with("www.crepes.fr", Type::A, 0)).await;
    assert_eq!(gist(&cold), want);
    assert!(cold.answers.iter().any(|record| record.rtype == Type::RRSIG));
    let asked = internet.heard().await.len();
    assert_eq!(gist(&internet.send(&query_with("www.crepes.fr", Type::A, AD)).await), want);
    let plain = internet.ask("www.crepes.fr", Type::A).await;
    assert_eq!((plain.header.authentic_data(), plain.answers.len()), (false, 2));
    // It is remembered: nobody was asked again.
    assert_eq!(internet.heard().await.len(), asked + 4);
    internet.stop().await;
}

/// Two questions for the root's keys and the top-level domain's; the DS records came with the referrals.
#[tokio::test]
async fn a_chain_is_fetched_once() {
    let internet = Internet::signed(|_| {});
    internet.send(&query_with("www.crepes.fr", Type::A, 0)).await;
    let cold = [internet.asked(ROOT).await, internet.asked(FR).await, internet.asked(CREPES).await];
    assert_eq!(cold, [2, 2, 2], "{:#?}", internet.heard().await);
    internet.send(&query_with("nothing.crepes.fr", Type::A, 0)).await;
    let warm = [internet.asked(ROOT).await, internet.asked(FR).await, internet.asked(CREPES).await];
    assert_eq!(warm, [2, 2, 3], "{:#?}", internet.heard().await);
    internet.stop().await;
}

/// RFC 4035 §5.2: the root proves that it has no DS for edu.
#[tokio::test]
async fn what_its_parent_proves_to_be_unsigned_is_insecure_and_answered() {
    let internet = Internet::signed(|_| {});
    let answer = internet.send(&query_with("www.school.edu", Type::A, AD)).await;
    assert_eq!(gist(&answer), (Rcode::NOERROR, false, strings(&["192.0.2.3"])));
    // An alias from a signed zone to one that is not: not all of it is authentic (RFC 4035 §3.2.3).
    let alias = internet.send(&query_with("alias.crepes.fr", Type::A, AD)).await;
    assert_eq!(gist(&alias), (Rcode::NOERROR, false, strings(&["192.0.2.3"])));
    internet.stop().await;
}

/// Signatures may be asked for. They are not signed themselves (RFC 4035 §2.2), so nobody vouches for them.
#[tokio::test]
async fn signatures_are_told_to_who_asks_for_them() {
    let internet = Internet::signed(|_| {});
    for name in ["www.crepes.fr", "alias.crepes.fr", "fr"] {
        for turn in ["cold", "warm"] {
            let answer = internet.send(&query_with(name, Type::RRSIG, 0)).await;
            assert_eq!(gist(&answer), (Rcode::NOERROR, false, vec![]), "{name}, {turn}: {answer:#?}");
            let mut types = answer.answers.iter().map(|record| record.rtype);
            assert!(
                !answer.answers.is_empty() && types.all(|rtype| rtype == Type::RRSIG),
                "{name}, {turn}: {answer:#?}"
            );
        }
    }
    // That there are none can be proved as for any other type; and where nothing is signed nothing need be.
    let nothing = internet.send(&query_with("nothing.crepes.fr", Type::RRSIG, 0)).await;
    assert_eq!(gist(&nothing), (Rcode::NXDOMAIN, true, vec![]));
    let unsigned = internet.send(&query_with("www.school.edu", Type::RRSIG, 0)).await;
    assert_eq!((gist(&unsigned), unsigned.answers.len()), ((Rcode::NOERROR, false, vec![]), 0));
    // Data is data, whatever is kept of its signatures.
    let data = internet.send(&query_with("www.crepes.fr", Type::A, 0)).await;
    assert_eq!(gist(&data), (Rcode::NOERROR, true, strings(&["192.0.2.1", "192.0.2.2"])));
    internet.stop().await;
}

/// All that a signed zone can say: data, aliases, DNAME, wildcards, and what is not there.
#[tokio::test]
async fn all_kinds_of_answers_are_authentic_cold_and_warm() {
    let internet = Internet::signed(|_| {});
    middleman(internet.port, |_| {}).await;
    for (name, rtype, want) in [
        ("www.evil.fr", Type::A, (Rcode::NOERROR, true, strings(&["192.0.2.9"]))),
        ("alias.evil.fr", Type::A, (Rcode::NOERROR, true, strings(&["192.0.2.9"]))),
        ("any.wild.evil.fr", Type::A, (Rcode::NOERROR, true, strings(&["192.0.2.10"]))),
        ("www.near.evil.fr", Type::A, (Rcode::NOERROR, true, strings(&["192.0.2.9"]))),
        ("www.near.evil.fr", Type::CNAME, (Rcode::NOERROR, true, vec![])),
        ("www.sub.evil.fr", Type::A, (Rcode::NOERROR, true, strings(&["192.0.2.9"]))),
        ("nothing.evil.fr", Type::A, (Rcode::NXDOMAIN, true, vec![])),
        ("below.nothing.evil.fr", Type::A, (Rcode::NXDOMAIN, true, vec![])),
        ("www.evil.fr", Type::MX, (Rcode::NOERROR, true, vec![])),
        ("any.wild.evil.fr", Type::MX, (Rcode::NOERROR, true, vec![])),
        ("evil.fr", Type::DS, (Rcode::NOERROR, true, vec![])),
        ("www.evil.fr", Type::DS, (Rcode::NOERROR, true, vec![])),
        ("evil.fr", Type::DNSKEY, (Rcode::NOERROR, true, vec![])),
        (".", Type::DNSKEY, (Rcode::NOERROR, true, vec![])),
        ("edu", Type::DS, (Rcode::NOERROR, true, vec![])),
    ] {
        for turn in ["cold", "warm"] {
            let answer = internet.send(&query_with(name, rtype, 0)).await;
            assert_eq!(gist(&answer), want, "{name} {rtype}, {turn}: {answer:#?}");
        }
    }
    // RFC 4035 §3.1.3.3: who validates himself needs the proof that goes with a wildcard, from the cache too.
    for _ in 0..2 {
        let wild = internet.send(&query_with("any.wild.evil.fr", Type::A, 0)).await;
        assert!(wild.authority.iter().any(|record| record.rtype == Type::NSEC), "{wild:#?}");
    }
    // RFC 6672 §3.1: the alias that a DNAME makes stands in the answer, for those who do not know DNAME.
    for _ in 0..2 {
        let made = internet.send(&query_with("www.near.evil.fr", Type::A, 0)).await;
        let types: Vec<Type> =
            made.answers.iter().map(|record| record.rtype).filter(|rtype| *rtype != Type::RRSIG).collect();
        assert_eq!(types, [Type::DNAME, Type::CNAME, Type::A], "{made:#?}");
    }
    internet.stop().await;
}

/// RFC 2181 §5: no set comes twice, however often the way leads through it. RFC 4035 §3.1.3.3: the proof that goes with a wildcard is
/// there, whatever the alias leads to.
#[tokio::test]
async fn sets_and_proofs_are_told_once_and_all_of_them() {
    let internet = Internet::signed(|_| {});
    middleman(internet.port, |_| {}).await;
    for turn in ["cold", "warm"] {
        let twice = internet.send(&query_with("www.near.near.evil.fr", Type::A, 0)).await;
        assert_eq!(gist(&twice), (Rcode::NOERROR, true, strings(&["192.0.2.9"])), "{turn}");
        let types: Vec<Type> =
            twice.answers.iter().map(|record| record.rtype).filter(|rtype| *rtype != Type::RRSIG).collect();
        assert_eq!(types, [Type::DNAME, Type::CNAME, Type::CNAME, Type::A], "{turn}: {twice:#?}");

        let lost = internet.send(&query_with("a.lost.evil.fr", Type::A, 0)).await;
        assert_eq!(gist(&lost), (Rcode::NXDOMAIN, true, vec![]), "{turn}");
        for zone in ["evil.fr", "crepes.fr"] {
            let zone: Name = zone.parse().unwrap();
            let proofs = lost.authority.iter().filter(|record| record.rtype == Type::NSEC);
            let mut owners: Vec<&Name> =
                proofs.map(|record| &record.owner).filter(|owner| owner.borrow().is_within(zone.borrow())).collect();
            let all = owners.len();
            owners.dedup();
            assert!(all > 0 && owners.len() == all, "{turn}, {zone}: {lost:#?}");
        }
    }
    internet.stop().await;
}

/// RFC 8198: what lies in a gap that is known is answered as the zone would, proof included, and nobody is asked.
#[tokio::test]
async fn what_lies_in_a_known_gap_is_not_asked_for() {
    for deduces in [true, false] {
        let internet = Internet::signed(|config| {
            config.deduce_denials = deduces;
            config.negative_trust_anchors = vec!["net.evil.fr".to_owned()];
        });
        let asked = middleman(internet.port, |_| {}).await;
        // Between near and ns; and no wildcard is there.
        let first = internet.send(&query_with("nothing.evil.fr", Type::A, 0)).await;
        assert_eq!(gist(&first), (Rcode::NXDOMAIN, true, vec![]));
        let before = asked.load(Ordering::SeqCst);
        for (name, rtype, rcode) in [
            ("x.y.nobody.evil.fr", Type::MX, Rcode::NXDOMAIN),
            ("nobody.evil.fr", Type::A, Rcode::NXDOMAIN),
            ("*.evil.fr", Type::A, Rcode::NXDOMAIN),
            // The gaps begin with names that exist, and say what these have.
            ("near.evil.fr", Type::TXT, Rcode::NOERROR),
            ("evil.fr", Type::TXT, Rcode::NOERROR),
        ] {
            let answer = internet.send(&query_with(name, rtype, 0)).await;
            assert_eq!(gist(&answer), (rcode, true, vec![]), "{name}");
            // With what the zone itself says to it: SOA, NSEC, their signatures. The wildcard lies in one of the two gaps.
            let records = answer.authority.iter().map(|record| (&record.owner, record.rtype, &record.rdata));
            assert!(answer.authority.iter().all(|record| (1..=300).contains(&record.ttl)), "{answer:#?}");
            if rcode == Rcode::NXDOMAIN && !name.starts_with('*') {
                let said = first.authority.iter().map(|record| (&record.owner, record.rtype, &record.rdata));
                assert!(records.eq(said), "{name}: {answer:#?}");
            }
        }
        let questions = if deduces { 0 } else { 5 };
        assert_eq!(asked.load(Ordering::SeqCst), before + questions);
        assert_eq!(internet.counted("recursion_deduced"), 5 - questions as u64);
        // Who sets CD proves for himself; whom the operator does not trust proves nothing; and what is elsewhere, or there, or below
        // a DNAME, is in no gap.
        for (name, rtype, flags) in [
            ("nonsense.evil.fr", Type::A, CD),
            ("net.evil.fr", Type::A, 0),
            ("zzz.evil.fr", Type::A, 0),
            ("near.evil.fr", Type::DNAME, 0),
            ("www.near.evil.fr", Type::A, 0),
        ] {
            let before = asked.load(Ordering::SeqCst);
            internet.send(&query_with(name, rtype, flags)).await;
            assert_eq!(asked.load(Ordering::SeqCst), before + 1, "{name}");
        }
        internet.stop().await;
    }
}

fn is_about(message: &Message, name: &str, rtype: Type) -> bool {
    message.question().is_some_and(|(owner, asked, _)| *owner == name.parse().unwrap() && *asked == rtype)
}

fn signatures(message: &mut Message) -> impl Iterator<Item = &mut Record> {
    let sections = message.answers.iter_mut().chain(&mut message.authority);
    sections.filter(|record| record.rtype == Type::RRSIG)
}

/// Each lie has its own word (RFC 8914 §4.2, §4.7 to §4.13), and who sets CD may see it (RFC 4035 §3.2.2).
#[tokio::test]
async fn who_changes_what_is_signed_is_found_out() {
    type Lie = fn(&mut Message);
    let lies: [(&str, u16, Lie); 8] = [
        ("the zone is signed, and this is not", 10, |message| {
            message.answers.retain(|record| record.rtype != Type::RRSIG);
        }),
        ("the signature is wrong", 6, |message| {
            message.answers.iter_mut().filter(|it| it.rtype == Type::A).for_each(|it| it.rdata[3] = 66);
        }),
        // Inception and expiration, octets 8 to 15 of RRSIG (RFC 4034 §3.1).
        ("the signature has expired", 7, |message| {
            signatures(message).for_each(|rrsig| rrsig.rdata[8..16].copy_from_slice(&[90, 0, 0, 1, 90, 0, 0, 0]));
        }),
        ("the signature is of the future", 8, |message| {
            signatures(message).for_each(|rrsig| rrsig.rdata[8..16].copy_from_slice(&[120, 0, 0, 1, 120, 0, 0, 0]));
        }),
        ("evil.fr.: no key of the zone is the one that its parent has", 9, |message| {
            if is_about(message, "evil.fr", Type::DNSKEY) {
                message.answers.iter_mut().filter(|it| it.rtype == Type::DNSKEY).for_each(|it| it.rdata[20] ^= 1);
            }
        }),
        ("evil.fr.: no key of the zone is the one that its parent has", 9, |message| {
            if is_about(message, "evil.fr", Type::DNSKEY) {
                message.answers.clear();
            }
        }),
        ("the zone has no key for the signature", 9, |message| {
            signatures(message).for_each(|rrsig| {
                rrsig.rdata.splice(18..18 + "\x04evil\x02fr\0".len(), *b"\x02fr\0");
            });
        }),
        ("nothing proves that it is not there", 12, |message| {
            if is_about(message, "www.evil.fr", Type::A) {
                message.answers.clear();
                message.authority.clear();
            }
        }),
    ];
    for (because, code, lie) in lies {
        let internet = Internet::signed(|_| {});
        let asked = middleman(internet.port, lie).await;
        let answer = internet.send(&query_with("www.evil.fr", Type::A, 0)).await;
        assert_eq!(gist(&answer), (Rcode::SERVFAIL, false, vec![]), "{because}");
        assert_eq!(explained(&answer), Some(code), "{because}: {}", explanation(&answer));
        assert!(explanation(&answer).ends_with(because), "{}", explanation(&answer));
        // It is remembered for a while, and not as if it were true.
        let before = asked.load(Ordering::SeqCst);
        let again = internet.send(&query_with("www.evil.fr", Type::A, 0)).await;
        assert_eq!((explained(&again), asked.load(Ordering::SeqCst)), (Some(code), before), "{because}");
        let unchecked = internet.send(&query_with("www.evil.fr", Type::A, CD)).await;
        assert_eq!((unchecked.header.rcode(), unchecked.header.authentic_data()), (Rcode::NOERROR, false));
        // What a client got unchecked is no answer for one who wants it checked.
        let checked = internet.send(&query_with("www.evil.fr", Type::A, 0)).await;
        assert_eq!(gist(&checked), (Rcode::SERVFAIL, false, vec![]), "{because}");
        internet.stop().await;
    }
}

/// Who takes the signatures of a delegation away makes nothing insecure.
#[tokio::test]
async fn a_delegation_without_proof_is_asked_about() {
    let internet = Internet::signed(|_| {});
    middleman(internet.port, |message| {
        if !is_about(message, "sub.evil.fr", Type::DS) {
            message.authority.retain(|record| record.rtype == Type::NS);
        }
    })
    .await;
    let answer = internet.send(&query_with("www.sub.evil.fr", Type::A, 0)).await;
    assert_eq!(gist(&answer), (Rcode::NOERROR, true, strings(&["192.0.2.9"])));
    internet.stop().await;

    let internet = Internet::signed(|_| {});
    middleman(internet.port, |message| {
        message.answers.retain(|record| record.rtype != Type::DS);
        message.authority.retain(|record| record.rtype == Type::NS);
    })
    .await;
    let answer = internet.send(&query_with("www.sub.evil.fr", Type::A, 0)).await;
    assert_eq!(gist(&answer), (Rcode::SERVFAIL, false, vec![]));
    assert_eq!(explained(&answer), Some(12), "{}", explanation(&answer));
    internet.stop().await;
}

/// One server that lies is not the zone: another one is asked.
#[tokio::test]
async fn after_a_lie_another_server_is_asked() {
    for lies_about in [Type::A, Type::DNSKEY] {
        let internet = Internet::signed(|_| {});
        let asked = middleman(internet.port, move |message| {
            if is_about(message, "www.twofaced.fr", lies_about) || is_about(message, "twofaced.fr", lies_about) {
                message.answers.retain(|record| record.rtype != Type::RRSIG);
            }
        })
        .await;
        // Whom it asks first is its choice: some questions later the liar had his turn.
        for n in 0..20 {
            let name = if n == 0 { "www.twofaced.fr".to_owned() } else { format!("x{n}.wild.twofaced.fr") };
            let answer = internet.send(&query_with(&name, Type::A, 0)).await;
            assert_eq!((answer.header.rcode(), answer.header.authentic_data()), (Rcode::NOERROR, true), "{name}");
        }
        assert!(asked.load(Ordering::SeqCst) + internet.asked(HONEST).await > 20, "{LIAR}");
        internet.stop().await;
    }
}

/// RFC 7646: the operator knows that the owner has made a mistake.
#[tokio::test]
async fn a_negative_trust_anchor_makes_a_zone_insecure() {
    let internet = Internet::signed(|config| config.negative_trust_anchors = vec!["evil.fr".to_owned()]);
    middleman(internet.port, |message| message.answers.retain(|record| record.rtype != Type::RRSIG)).await;
    let answer = internet.send(&query_with("www.evil.fr", Type::A, AD)).await;
    assert_eq!(gist(&answer), (Rcode::NOERROR, false, strings(&["192.0.2.9"])));
    let other = internet.send(&query_with("www.crepes.fr", Type::A, AD)).await;
    assert!(other.header.authentic_data());
    internet.stop().await;
}

/// RFC 4035 §5.3.3: no longer than the signature says.
#[tokio::test]
async fn a_longer_ttl_than_the_one_that_was_signed_is_not_believed() {
    let internet = Internet::signed(|_| {});
    middleman(internet.port, |message| message.answers.iter_mut().for_each(|record| record.ttl = 100_000)).await;
    for _ in 0..2 {
        let answer = internet.send(&query_with("www.evil.fr", Type::A, 0)).await;
        assert!(answer.header.authentic_data() && answer.answers[0].ttl <= 3600, "{answer:#?}");
    }
    internet.stop().await;
}

/// RFC 4035 §4.7 speaks of minimised names too: what was learnt on the way is validated before it is an answer.
#[tokio::test]
async fn minimised_names_and_many_clients_do_not_change_the_verdict() {
    let internet = Internet::signed(|config| config.minimise_names = true);
    middleman(internet.port, |_| {}).await;
    let queries = (0..20).map(|n| query_with(&format!("a.b.x{n}.wild.evil.fr"), Type::A, 0));
    for answer in internet.send_all(queries.collect()).await {
        assert_eq!(gist(&answer), (Rcode::NOERROR, true, strings(&["192.0.2.10"])));
    }
    assert_eq!(gist(&internet.send(&query_with("evil.fr", Type::A, 0)).await), (Rcode::NOERROR, true, vec![]));
    let keys = internet.heard().await.iter().filter(|line| line.contains("C: 127.9.6.6 evil.fr. DNSKEY?")).count();
    // On a busy machine an answer may come too late, and the question is asked again.
    let late = internet.counted("upstream_timeouts") as usize;
    assert!((1..=1 + late).contains(&keys), "all wait for one question, and not for {keys}");
    let deep = internet.send(&query_with("a.b.nothing.crepes.fr", Type::A, 0)).await;
    assert_eq!(gist(&deep), (Rcode::NXDOMAIN, true, vec![]));
    internet.stop().await;
}

/// Where validation looks first whether something is kept, a name of ours at the end of others' aliases is found all the same.
#[tokio::test]
async fn an_alias_of_others_may_lead_to_a_name_of_ours() {
    let internet = Internet::signed(|config| config.local = vec!["www.school.edu A 192.0.2.77".to_owned()]);
    for turn in ["asked", "cached"] {
        let answer = internet.send(&query_with("alias.crepes.fr", Type::A, 0)).await;
        let found = gist(&answer);
        assert_eq!(found, (Rcode::NOERROR, false, strings(&["192.0.2.77"])), "{turn}: {answer:#?}");
        // And not only because the cache is asked once more when all else fails (RFC 8767).
        let failed =
            [internet.counted("recursion_limits{limit=\"aliases\"}"), internet.counted("recursion{result=\"stale\"}")];
        assert_eq!(failed, [0, 0], "{turn}");
    }
    internet.stop().await;
}
