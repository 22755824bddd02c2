//! Where nodePorts are served.

use super::{
    super::{
        cast::{
            A, B, C, CLUSTER_IP,
            Client::{From, Node, OtherNode, Outside, Pod, Sandboxed},
            D, EXTERNAL_IP,
            Family::{V4, V6},
            LOOPBACK, NEW_ADDRESS, NODE_PORT, NodeAddress, OTHER_LOOPBACK, OTHER_NODES_PORT, UNSPECIFIED, node_port,
        },
        objects::{OTHER_TARGET, TARGET, port, slice, web},
        row::{Row, Setting, passes, reaches, refused, row},
        rules::*,
    },
    EVERYONE, SOME,
};
use crate::objects;

const INNER: super::super::cast::To = node_port(NodeAddress::Inner);
const OUTER: super::super::cast::To = node_port(NodeAddress::Outer);

pub fn rows() -> Vec<Row> {
    let mut rows = addresses();
    rows.extend(loopback());
    rows.extend(others());
    rows
}

fn addresses() -> Vec<Row> {
    let given = || objects![web().node_port(), slice([A, C])];
    vec![
        row("nodePorts are served at all of the node's addresses", [NodePortAddresses, ExternalCluster])
            .given(given())
            .expect(EVERYONE, NODE_PORT, reaches([A, C]).masqueraded())
            .expect(EVERYONE, INNER, reaches([A, C]).masqueraded())
            .expect(EVERYONE, OUTER, reaches([A, C]).masqueraded()),
        row("nodePortAddresses keeps nodePorts to its prefixes", [NodePortAddresses])
            .with(Setting::NodePortPrefixes)
            .given(given())
            .expect(EVERYONE, NODE_PORT, reaches([A, C]).masqueraded())
            .expect(EVERYONE, INNER, passes())
            .expect(EVERYONE, OUTER, passes()),
        row("prefixes of IPv4 keep its nodePorts to them", [NodePortAddresses])
            .with(Setting::NodePortPrefixV4)
            .only(V4)
            .given(given())
            .expect(SOME, NODE_PORT, reaches([A, C]).masqueraded())
            .expect(SOME, INNER, passes()),
        row("without prefixes of IPv6 its nodePorts are at all addresses", [NodePortAddresses])
            .with(Setting::NodePortPrefixV4)
            .only(V6)
            .given(given())
            .expect(SOME, NODE_PORT, reaches([A, C]).masqueraded())
            .expect(SOME, INNER, reaches([A, C]).masqueraded()),
        row("`primary` keeps nodePorts to the Node's first addresses", [NodePortAddresses])
            .with(Setting::NodePortPrimary)
            .given(given())
            .expect(EVERYONE, NODE_PORT, reaches([A, C]).masqueraded())
            .expect(EVERYONE, INNER, passes())
            .expect([Node], LOOPBACK, passes()),
        row("an address that the node gets serves nodePorts", [NodePortAddresses])
            .given(given())
            .address(NEW_ADDRESS)
            .expect([Outside, Sandboxed, Node], NEW_ADDRESS, reaches([A, C]).masqueraded()),
        row("an address that the node gets outside of the prefixes does not", [NodePortAddresses])
            .with(Setting::NodePortPrefixes)
            .given(given())
            .address(NEW_ADDRESS)
            .expect([Outside, Sandboxed, Node], NEW_ADDRESS, passes()),
        row("the address of another node is left alone", [NodePortAddresses, Bystanders]).given(given()).expect(
            [Outside, Pod, Sandboxed, Node],
            OTHER_NODES_PORT,
            passes(),
        ),
    ]
}

fn loopback() -> Vec<Row> {
    let given = || objects![web().node_port(), slice([A, C])];
    vec![
        row("the node reaches nodePorts at its loopback address", [NodePortLoopback]).given(given()).expect(
            [Node],
            LOOPBACK,
            reaches([A, C]),
        ),
        row("the node reaches nodePorts at any loopback address", [NodePortLoopback]).given(given()).expect(
            [Node],
            OTHER_LOOPBACK,
            reaches([A, C]),
        ),
        row("the node reaches nodePorts at the unspecified address", [NodePortLoopback]).given(given()).expect(
            [Node],
            UNSPECIFIED,
            reaches([A, C]),
        ),
        row("a pod's loopback address is its own", [NodePortLoopback])
            .given(given())
            .expect([Pod, Sandboxed], LOOPBACK, passes())
            .expect([Pod, Sandboxed], OTHER_LOOPBACK, passes())
            .expect([Pod, Sandboxed], UNSPECIFIED, passes()),
        row("nobody reaches a loopback address from outside", [NodePortLoopback])
            .given(given())
            .expect([Outside, OtherNode], LOOPBACK, passes())
            .expect([Outside, OtherNode], UNSPECIFIED, passes()),
        row("localhostNodePorts may be off", [NodePortLoopback])
            .with(Setting::NoLoopback)
            .given(given())
            .expect([Node], LOOPBACK, passes())
            .expect([Node], OTHER_LOOPBACK, passes())
            .expect([Node, Outside], NODE_PORT, reaches([A, C]).masqueraded()),
        row("nodePortAddresses keeps nodePorts from loopback addresses too", [NodePortLoopback, NodePortAddresses])
            .with(Setting::NodePortPrefixes)
            .given(given())
            .expect([Node], LOOPBACK, passes()),
        row(
            "under external policy Local the node reaches all endpoints at its loopback address",
            [NodePortLoopback, ExternalLocalNode],
        )
        .given(objects![web().node_port().external_local(), slice([C, D])])
        .expect([Node], LOOPBACK, reaches([C, D])),
    ]
}

fn others() -> Vec<Row> {
    vec![
        row("a nodePort without endpoint refuses", [NodePortRefusals, NothingUsable])
            .given(objects![web().node_port()])
            .expect(EVERYONE, NODE_PORT, refused())
            .expect(EVERYONE, INNER, refused())
            .expect([Node], LOOPBACK, refused()),
        row("a nodePort without endpoint refuses at addresses with nodePorts only", [NodePortRefusals])
            .with(Setting::NodePortPrefixes)
            .given(objects![web().node_port()])
            .expect(EVERYONE, NODE_PORT, refused())
            .expect(EVERYONE, INNER, passes())
            .expect([Node], LOOPBACK, passes()),
        row("each port has a nodePort of its own", [PortsByName, ExternalCluster])
            .given(objects![
                web().node_port().ports([port("main", 80), port("second", 81)]),
                slice([A, C]).ports([port("main", TARGET), port("second", OTHER_TARGET)]),
            ])
            .expect(SOME, NODE_PORT, reaches([A, C]).masqueraded())
            .expect(SOME, NODE_PORT.port(81), reaches([A, C]).at(OTHER_TARGET).masqueraded()),
        row("an endpoint reaches itself by a nodePort", [Hairpin])
            .given(objects![web().node_port(), slice([A])])
            .expect([From(A)], NODE_PORT, reaches([A]).masqueraded()),
        row("the nodePort of the clusterIP's port is not served at the clusterIP", [Bystanders])
            .given(objects![web().node_port().external_ip(), slice([A, B])])
            .expect(SOME, CLUSTER_IP, reaches([A, B]))
            .expect(SOME, EXTERNAL_IP, reaches([A, B]).masqueraded())
            .expect(SOME, CLUSTER_IP.port(82), passes()),
    ]
}
