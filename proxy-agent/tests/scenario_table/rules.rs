//! What is promised of Services, one rule each. The rows of the table say which of them they check.
//!
//! They are kube-proxy's (version 1.36), as far as they concern connections: KEP-1669 (endpoints that terminate), KEP-2086
//! (`internalTrafficPolicy`), KEP-2433, KEP-3015 and KEP-4444 (hints), KEP-1860 (`ipMode`), and the Service API reference.

macro_rules! rules {
    ($($section:ident $title:literal { $($rule:ident $text:literal,)* })*) => {
        /// A part of the rules.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Section {
            $($section,)*
        }

        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $($($rule,)*)*
        }

        pub use Rule::*;

        impl Section {
            pub const ALL: &[Self] = &[$(Self::$section,)*];

            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$section => $title,)*
                }
            }
        }

        impl Rule {
            pub const ALL: &[Self] = &[$($(Self::$rule,)*)*];

            pub const fn section(self) -> Section {
                match self {
                    $($(Self::$rule => Section::$section,)*)*
                }
            }

            /// The rule in a sentence.
            pub const fn text(self) -> &'static str {
                match self {
                    $($(Self::$rule => $text,)*)*
                }
            }
        }
    };
}

rules! {
    Objects "Which objects count" {
        ServicesForOthers "Services of type `ExternalName`, headless ones and those with the label `service.kubernetes.io/service-proxy-name` are left alone.",
        SlicesForOthers "Slices with the label `service.kubernetes.io/headless`, with host names, or of no Service are left alone.",
        PortsByName "Ports of Service and slice are joined by name and protocol.",
        SlicesAreUnited "The slices of a Service are united, and an endpoint counts once.",
        NumbersBySlice "Each slice may have another number for a port.",
        FamiliesOfService "A Service serves the families of its `clusterIPs`; what is of the other family does not count.",
        UnsetConditions "Where conditions are not set, an endpoint is ready and serving and does not terminate.",
        LocalByNodeName "An endpoint is local if its `nodeName` is this node.",
        BrokenParts "What is broken in an object is left out and told; the rest is served.",
    }
    Endpoints "Which endpoints are used" {
        ReadyEndpoints "Ready endpoints are used.",
        TerminatingEndpoints "Where none is ready, those that still serve and terminate are used.",
        UnusableEndpoints "An endpoint that is neither ready nor terminating is not used.",
        NodeHints "Hints for nodes apply if every ready endpoint has one, and one of them is for this node.",
        ZoneHints "Otherwise hints for zones apply if every ready endpoint has one, and one of them is for this node's zone.",
        IncompleteHints "Otherwise hints do not apply.",
        LocalEndpoints "Policy `Local` uses ready endpoints on this node.",
        LocalTerminating "Where none on this node is ready, policy `Local` uses those on this node that still serve and terminate.",
        LocalIgnoresHints "Hints do not apply to policy `Local`.",
        NothingUsable "Nothing usable anywhere: the client is refused.",
        NothingLocal "Nothing usable on this node under policy `Local`, but elsewhere: packets are dropped.",
    }
    Traffic "Which traffic goes where" {
        ClusterIp "A clusterIP leads to the endpoints of the cluster, whoever asks.",
        InternalLocal "Under `internalTrafficPolicy: Local` it leads to those of this node.",
        MasqueradeAll "`masqueradeAll` masquerades what is sent to clusterIPs.",
        DetectorMasquerades "With a detector, what is sent to clusterIPs from elsewhere than pods is masqueraded.",
        NoDetector "Without one, nothing is masqueraded because of its source.",
        ExternalCluster "External addresses, load balancers' addresses and nodePorts lead to the endpoints of the cluster, and are masqueraded.",
        ExternalLocal "Under `externalTrafficPolicy: Local`, clients outside reach endpoints of this node and keep their address.",
        ExternalLocalPods "Under `externalTrafficPolicy: Local`, pods reach the endpoints of the cluster and keep their address.",
        ExternalLocalNode "Under `externalTrafficPolicy: Local`, the node itself reaches the endpoints of the cluster.",
        PodsWithoutDetector "Without a detector, pods count as clients outside.",
        Hairpin "An endpoint that reaches itself is masqueraded.",
        NodePortAddresses "A nodePort is served at the node's addresses in `nodePortAddresses`: all of them by default, all of a family that has none there, or the primary one.",
        NodePortLoopback "Processes of the node reach nodePorts at loopback addresses, unless `localhostNodePorts` is off; nobody else does.",
        NodePortRefusals "A nodePort without endpoint refuses at the addresses that serve nodePorts only.",
        SourceRanges "`loadBalancerSourceRanges` guards the load balancers' addresses, from pods and the node too; others are dropped.",
        SourceRangesElsewhere "It guards neither clusterIPs nor external IPs nor nodePorts.",
        SourceRangesNode "Where a range holds an address of the node, its packets that come from the load balancer's address are allowed.",
        SourceRangesOff "A prefix of length zero, or ranges of the other family only, guard nothing.",
        SourceRangesFirst "Ranges come before endpoints: without any, those who are allowed are refused, and the others dropped.",
        Bystanders "Other ports of a clusterIP, and addresses that are no Service's, are left alone.",
        IpModeProxy "Load balancers' addresses with `ipMode: Proxy` are left alone.",
        NoNodePorts "A load balancer without nodePorts works.",
        SharedAddress "Several Services may share an external address with different ports.",
        OldestWins "For one address and port, the oldest Service wins, and the others are told.",
        Uniform "Each endpoint is chosen as often as the others, anew for each connection.",
        Affinity "`sessionAffinity: ClientIP` leads a client to one endpoint, by whichever frontend of the port.",
        AffinityTimeout "It ends after `timeoutSeconds` without a new connection (10800 by default).",
        AffinityForgets "An endpoint that is not used any more is forgotten.",
        AffinityApart "It is kept apart for each Service and port.",
        Protocols "TCP, UDP and SCTP are served, also with the same port number.",
        TypeChanges "Changes of the type take effect.",
        PortChanges "Ports that are added, renamed or removed take effect.",
        OthersUntouched "What changes for one Service changes nothing for others.",
    }
    Flows "Connections that are there" {
        FlowTerminating "They go on when their endpoint terminates.",
        FlowGone "When their endpoint is gone, TCP is left alone, and the next datagram goes to another endpoint.",
        FlowFirstEndpoint "What was refused or passed by works at once when the first endpoint appears.",
        FlowPortChange "When ports change, TCP goes on, and UDP goes to the new port.",
        FlowPolicyChange "When affinity, policy or type change, they go on as long as their endpoint is there.",
        FlowOthers "Those of other Services are not touched.",
        FlowRestart "A restart of the agent touches none.",
    }
}
