//! Who is told of which decision.

use proxy_common::{Decided, DecidedAt, Decision, DropReason, Port, Protocol, ServiceId, Trace, TraceRate, V4, V6};
use proxy_ebpf::trace::wants;

const CLIENT: [u8; 4] = [192, 0, 2, 9];
const FRONTEND: [u8; 4] = [10, 96, 0, 1];
const BACKEND: [u8; 4] = [10, 0, 0, 2];

/// A connection of CLIENT's to Service 7 that goes to BACKEND, at the time 100.
fn decision() -> Decision {
    let port = Port::new(80);
    let tcp = Protocol::Tcp.number();
    let mut decision =
        Decision::new::<V4>(DecidedAt::Ingress, Decided::Begins, ServiceId::new(7), tcp, &(FRONTEND, port));
    decision.set_packet::<V4>(&(CLIENT, Port::new(4000)), 3, 0);
    decision.set_backend::<V4>(&(BACKEND, port));
    decision.set_time(100);
    decision
}

fn services(count: u32) -> impl Iterator<Item = ServiceId> {
    (1..=count).map(ServiceId::new)
}

#[test]
fn a_trace_asks_until_its_time_is_over() {
    let all = Trace::all(1);
    assert!(!wants(&Trace::OFF, &decision()), "nobody asks");
    assert!(wants(&all.until(101), &decision()));
    assert!(!wants(&all.until(100), &decision()), "whoever asked did not go on asking");
    assert!(all.until(100).is_on() && !Trace::OFF.is_on());
}

#[test]
fn all_that_is_asked_for_must_hold() {
    let all = Trace::all(1).until(u64::MAX);
    let told = |trace: &Trace| wants(trace, &decision());
    for address in [CLIENT, FRONTEND, BACKEND] {
        assert!(told(&all.of_address::<V4>(address)), "{address:?}");
    }
    assert!(!told(&all.of_address::<V4>([10, 0, 0, 3])));
    let mut same_bytes = [0; 16];
    same_bytes[..4].copy_from_slice(&BACKEND);
    assert!(!told(&all.of_address::<V6>(same_bytes)), "an address of the other family");

    assert!(told(&all.of_protocol(Protocol::Tcp)));
    assert!(!told(&all.of_protocol(Protocol::Udp)));
    assert!(!told(&all.of_protocol(Protocol::Udp).of_address::<V4>(CLIENT)));

    assert!(told(&all.of_services(services(8))));
    assert!(!told(&all.of_services(services(6))));
    assert!(!told(&all.of_services(services(9).filter(|id| id.get() != 7))));
    let many = all.of_services((100..120).map(ServiceId::new));
    assert!(told(&many), "more than there is room for: all are told");
}

#[test]
fn every_kind_of_decision_is_read_as_it_was_written() {
    let drops = DropReason::ALL.into_iter().map(Decided::Dropped);
    for decided in [Decided::Begins, Decided::Refused].into_iter().chain(drops) {
        for at in DecidedAt::ALL {
            let decision = Decision::new::<V6>(at, decided, ServiceId::new(7), 6, &([1; 16], Port::new(80)));
            assert_eq!((decision.decided(), decision.at()), (Some(decided), Some(at)));
        }
    }
}

#[test]
fn a_cpu_tells_so_many_in_a_second_and_counts_the_rest() {
    let mut rate = TraceRate::default();
    let mut told = |second, asked| (0..asked).filter(|_| rate.admit(second)).count();
    let limit = TraceRate::LIMIT as usize;
    assert_eq!(told(5, limit + 3), limit);
    assert_eq!(told(5, 2), 0);
    assert_eq!(told(6, 4), 4, "another second");
    assert_eq!(rate.untold(), 5);
}
