//! What packets cost in TC: a client outside the node, through a nodePort, to a pod of the node. Run time of the program at the
//! ingress of the devices, averaged over its runs: requests at the node's device, answers at the pod's.

use super::{
    Size,
    figure::{Figure, Sorted},
    programs::{Counting, Program},
    scene::{self, NODE_PORT, SILENT_NODE_PORT},
    stage::{Family, Stage},
    visitor::Visit,
};

/// Each is measured as often, and the median counts.
const ROUNDS: usize = 9;

/// Nanoseconds of a run, for packets of each kind.
struct Costs {
    established: Sorted,
    first: Sorted,
    others: Sorted,
}

fn costs(stage: &Stage, ingress: &Program, size: Size) -> Costs {
    let service = [NODE_PORT.into(), NODE_PORT.into()];
    let straight = [stage.backends[0].endpoint(Family::V4); 2];
    let count = size.requests / ROUNDS;
    let client = stage.outside_client();
    let rounds =
        |visit: Visit| Sorted::new((0..ROUNDS).map(|_| ingress.average(|| drop(visit.run(&client)))).collect());
    Costs {
        established: rounds(Visit::RoundTrips { to: service, count }),
        first: rounds(Visit::Datagrams { to: SILENT_NODE_PORT.into(), count }),
        others: rounds(Visit::RoundTrips { to: straight, count }),
    }
}

pub fn run(size: Size) -> Vec<Figure> {
    let stage = scene::start();
    let ingress = Program::of(&stage, "ingress");
    let to = [NODE_PORT.into(), stage.backends[0].endpoint(Family::V4)];
    // Before the kernel counts: counting costs as well.
    let (trips, straight) = Visit::RoundTrips { to, count: size.requests }.run(&stage.outside_client());
    let counting = Counting::start();
    let few = costs(&stage, &ingress, size);
    scene::grow(&stage, size.services);
    let many = costs(&stage, &ingress, size);
    drop(counting);
    let growth = |cost: fn(&Costs) -> &Sorted| cost(&many).at(0.5) / cost(&few).at(0.5);
    vec![
        Figure::range("packet of an established flow, all Services", "ns", &many.established, 120.0),
        Figure::range("packet that is no Service's, all Services", "ns", &many.others, 40.0),
        Figure::range("first packet of a flow, all Services", "ns", &many.first, 600.0),
        Figure::single("established: all Services ÷ 2", "", growth(|costs| &costs.established), Some(1.1)),
        Figure::single("no Service's: all Services ÷ 2", "", growth(|costs| &costs.others), Some(1.1)),
        Figure::single("first packet: all Services ÷ 2", "", growth(|costs| &costs.first), Some(1.1)),
        Figure::median("round trip from outside through a nodePort ÷ plain routing", "", trips, Some(1.05)),
        Figure::single("round trip from outside by plain routing", "µs", straight, None),
    ]
}
