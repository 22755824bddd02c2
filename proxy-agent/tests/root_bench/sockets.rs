//! What the way over a Service costs at the socket: a process of the node, to a pod of the node.

use super::{
    Size,
    figure::Figure,
    scene::{self, CLUSTER_IP},
    stage::Family,
    visitor::Visit,
};

pub fn run(size: Size) -> Vec<Figure> {
    let stage = scene::start();
    let to = [CLUSTER_IP.into(), stage.backends[0].endpoint(Family::V4)];
    let (few, _) = Visit::Connections { to, count: size.requests / 4 }.run(&stage.host());
    scene::grow(&stage, size.services);
    let (trips, straight_trip) = Visit::RoundTrips { to, count: size.requests }.run(&stage.host());
    let (many, straight_connect) = Visit::Connections { to, count: size.requests / 4 }.run(&stage.host());
    vec![
        Figure::median("round trip through a clusterIP ÷ straight to the pod", "", trips, Some(1.01)),
        Figure::median("connect through a clusterIP ÷ straight, all Services", "", many, Some(1.05)),
        Figure::median("connect through a clusterIP ÷ straight, 2 Services", "", few, Some(1.05)),
        Figure::single("round trip straight to the pod", "µs", straight_trip, None),
        Figure::single("connect straight to the pod", "µs", straight_connect, None),
    ]
}
