//! Every fixture through the pipeline on the host.

use proxy_common::{Counter, Decided, DecidedAt, Decision, Direction, DropReason, ServiceId};
use proxy_ebpf::{
    Verdict,
    fixtures::{self, Case, Outcome, frames},
    host::{self, Hook, HostPacket, HostTables},
    tc::TcFamily,
};

const ETHERNET: usize = 14;

#[test]
fn every_case_ends_as_it_says() {
    let cases = fixtures::all();
    assert!(cases.len() > 100, "the fixtures are there");
    for mut case in cases {
        let is_v6 = case.frame[12..14] == [0x86, 0xdd];
        if is_v6 {
            let mut tables = std::mem::take(&mut case.world.v6);
            check(&case, &mut tables);
        } else {
            let mut tables = std::mem::take(&mut case.world.v4);
            check(&case, &mut tables);
        }
    }
}

fn check<F: TcFamily>(case: &Case, tables: &mut HostTables<F>) {
    check_without_link_layer(case, &mut tables.clone());
    let mut packet = HostPacket::new(case.frame.clone()).with_mark(case.mark);
    let (verdict, told) = host::run_told(&mut packet, tables, case.hook, ETHERNET);
    let name = case.name;
    assert_counted(case, tables);
    assert_told(case, told, tables, proxy_ebpf::Packet::mark(&packet));
    match &case.outcome {
        Outcome::Pass { frame, mark } => {
            assert_eq!(verdict, Verdict::Pass, "{name}");
            assert_eq!(packet.bytes(), frame, "{name}");
            assert_eq!(proxy_ebpf::Packet::mark(&packet), *mark, "{name}");
            // What is not translated may be no packet at all.
            assert!(*frame == case.frame || frames::checksums_are_right(packet.bytes()), "{name}");
        }
        Outcome::Drop(reason) => {
            assert_eq!(verdict, Verdict::Drop(*reason), "{name}");
            assert_drops(tables, *reason, name);
        }
        Outcome::Answer(frame) => {
            assert_eq!(verdict, Verdict::Answer, "{name}");
            assert_drops(tables, DropReason::NoEndpoint, name);
            assert_eq!(packet.bytes(), frame, "{name}");
            assert!(frames::checksums_are_right(packet.bytes()), "{name}");
        }
    }
}

/// On a device without a link layer a packet passes as the same bytes.
fn check_without_link_layer<F: TcFamily>(case: &Case, tables: &mut HostTables<F>) {
    let Outcome::Pass { frame, mark } = &case.outcome else { return };
    let mut packet = HostPacket::new(case.frame[ETHERNET..].to_vec()).with_mark(case.mark);
    let name = case.name;
    assert_eq!(host::run(&mut packet, tables, case.hook, 0), Verdict::Pass, "{name}");
    assert_eq!((packet.bytes(), proxy_ebpf::Packet::mark(&packet)), (&frame[ETHERNET..], *mark), "{name}");
}

/// One packet was counted, by reason and by Service.
fn assert_drops<F: TcFamily>(tables: &HostTables<F>, reason: DropReason, name: &str) {
    assert_eq!(tables.counter(Counter::Drop(reason)), 1, "{name}");
    let drops: Vec<_> = tables.drops.iter().map(|(key, count)| (key.reason(), *count)).collect();
    assert_eq!(drops, [(Some(reason), 1)], "{name}");
    let service = tables.drops.keys().next().expect("asserted above").service();
    assert!(tables.services.values().any(|entry| entry.id() == service), "{name}");
}

/// What is translated is counted for a Service, with the bytes from the IP header on; nothing else is.
fn assert_counted<F: TcFamily>(case: &Case, tables: &HostTables<F>) {
    let name = case.name;
    let direction = match case.hook {
        Hook::Ingress => Direction::Original,
        Hook::Egress => Direction::Reply,
    };
    let packets: u64 = tables.traffic.values().map(|traffic| traffic.packets(direction)).sum();
    let bytes: u64 = tables.traffic.values().map(|traffic| traffic.bytes(direction)).sum();
    let length = (case.frame.len() - ETHERNET) as u64;
    assert_eq!(bytes, packets * length, "{name}");
    let is_translated = matches!(&case.outcome, Outcome::Pass { frame, .. } if *frame != case.frame);
    // Errors about connections are translated, too, and are no packets of theirs.
    let is_icmp = F::VERSION == 4 && case.frame[ETHERNET + 9] == 1;
    if !is_translated || is_icmp {
        assert_eq!(packets, 0, "{name}");
    } else if F::VERSION == 4 {
        assert_eq!(packets, 1, "{name}");
    }
    assert!(packets <= 1, "{name}");
}

/// Whoever follows decisions is told of what begins, is dropped or is refused, for the Service for which it is counted, and of
/// nothing else.
fn assert_told<F: TcFamily>(case: &Case, told: Option<Decision>, tables: &HostTables<F>, mark: u32) {
    let name = case.name;
    let decided = match &case.outcome {
        Outcome::Drop(reason) => Decided::Dropped(*reason),
        Outcome::Answer(_) => Decided::Refused,
        Outcome::Pass { .. } if tables.counter(Counter::Flows) == 1 => Decided::Begins,
        Outcome::Pass { .. } => return assert_eq!(told, None, "{name}"),
    };
    let told = told.unwrap_or_else(|| panic!("nothing is told of {name}"));
    assert_eq!(told.decided(), Some(decided), "{name}");
    let at = match case.hook {
        Hook::Ingress => DecidedAt::Ingress,
        Hook::Egress => DecidedAt::Egress,
    };
    assert_eq!((told.at(), told.mark(), told.version()), (Some(at), mark, F::VERSION), "{name}");
    let counted: Vec<ServiceId> = match decided {
        Decided::Begins => {
            tables.traffic.iter().filter(|(_, traffic)| traffic.connections() == 1).map(|(id, _)| *id).collect()
        }
        Decided::Refused | Decided::Dropped(_) => tables.drops.keys().map(proxy_common::DropKey::service).collect(),
    };
    assert_eq!(counted, [told.service()], "{name}");
    let goes = told.backend().1.get() != 0;
    assert_eq!(goes, decided == Decided::Begins, "{name}");
    let ip = &case.frame[ETHERNET..];
    let (source, destination) =
        (&ip[F::SOURCE_OFFSET..][..F::ADDRESS_LEN], &ip[F::DESTINATION_OFFSET..][..F::ADDRESS_LEN]);
    assert_eq!(
        (&told.source().0[..F::ADDRESS_LEN], &told.destination().0[..F::ADDRESS_LEN]),
        (source, destination),
        "{name}"
    );
}
