//! What the table contains. Pure.
//!
//! ```text
//! table inet proxy-agent {
//!     chain masquerade-marked {                   # once for each connection
//!         type nat hook postrouting priority srcnat
//!         meta mark & BIT != 0  meta mark set meta mark & ~BIT  counter  masquerade fully-random
//!     }
//!     chain clear-mark {                          # every packet
//!         type filter hook postrouting priority srcnat + 1
//!         meta mark & BIT != 0  meta mark set meta mark & ~BIT
//!     }
//!     chain drop-forwarded { type filter hook prerouting priority filter;  meta mark & 0x8000 != 0  counter  drop }
//!     chain drop-local     { type filter hook output priority filter;      meta mark & 0x8000 != 0  counter  drop }
//! }
//! ```
//!
//! Why the bit is cleared, and why twice: the mark of a packet is copied to the packet that
//! encapsulates it, which would be masqueraded again. The nat chain clears the bit before it
//! masquerades, as kube-proxy does; but a nat chain sees only the first packet of a connection, so the
//! second chain clears it on all the others.
//!
//! The chains' names are no words of nft's language, so that `nft list chain` takes them unquoted.
//!
//! The drop mark (KUBE-MARK-DROP) is set in nat chains, at priority -100; the chains that honour it
//! come after them, at priority 0. They are left out where the masquerade mark is that very bit.
//!
//! Others have nat chains at the same priority (iptables' are, and those of CNIs). Of these the one that was made last comes
//! first, and the first one that translates a connection is the last one asked, so no order translates anything twice.
//! If another one masquerades, the bit is still cleared by the second chain.

use netlink_packet_core::{DefaultNla, Nla as _};
use netlink_packet_netfilter::{
    NetfilterProtoFamily,
    nftables::{
        Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook, Immediate,
        InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Register, RuleAttribute, RuleMessage,
        TableAttribute, TableMessage, Verdict, VerdictAttribute,
    },
};
use proxy_common::DROP_MARK;

use super::netlink::Step;

/// The name of the table, of family inet.
pub const TABLE: &str = "proxy-agent";

/// `NF_IP_PRI_NAT_SRC`.
const PRIORITY_SRCNAT: u32 = 100;
/// `NF_IP_PRI_FILTER`.
const PRIORITY_FILTER: u32 = 0;
/// `NF_DROP`.
const DROP: u32 = 0;
/// The chains that drop what carries the drop mark.
const DROP_CHAINS: [(&str, InetHookNumber); 2] =
    [("drop-forwarded", InetHookNumber::PreRouting), ("drop-local", InetHookNumber::LocalOut)];
/// `NFTA_COUNTER_PACKETS`, a big-endian number of eight bytes.
const COUNTER_PACKETS: u16 = 2;
/// `NFTA_MASQ_FLAGS`, and `NF_NAT_RANGE_PROTO_RANDOM_FULLY` as its value.
const MASQUERADE_FLAGS: u16 = 1;
const FULLY_RANDOM: u32 = 1 << 4;

/// The steps that make the table, and unmake one that was there before.
pub(super) fn install(masquerade_mark: u32) -> Vec<Step> {
    let mut steps = remove();
    steps.push(table("table"));
    steps.push(chain("masquerade-marked", "nat", InetHookNumber::PostRouting, PRIORITY_SRCNAT));
    steps.push(rule(
        "masquerade-marked",
        [mark_has(masquerade_mark), mark_clear(masquerade_mark), counter(), masquerade()],
    ));
    steps.push(chain("clear-mark", "filter", InetHookNumber::PostRouting, PRIORITY_SRCNAT + 1));
    steps.push(rule("clear-mark", [mark_has(masquerade_mark), mark_clear(masquerade_mark)]));
    // One bit cannot ask for both.
    if masquerade_mark != DROP_MARK {
        for (name, hook) in DROP_CHAINS {
            steps.push(chain(name, "filter", hook, PRIORITY_FILTER));
            steps.push(rule(name, [mark_has(DROP_MARK), counter(), drop_packet()]));
        }
    }
    steps
}

/// The steps that remove the table. Making it first keeps them from failing if it is not there.
pub(super) fn remove() -> Vec<Step> {
    let name = || TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    vec![table("table"), step("former table", NfTablesMessage::DeleteTable(name()))]
}

/// Asks for the table.
pub(super) fn query() -> Step {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
    step("query", NfTablesMessage::GetTable(TableMessage { attributes }))
}

/// Asks for the table's rules.
pub(super) fn rules() -> Step {
    let attributes = vec![RuleAttribute::Table(TABLE.to_owned())];
    step("rules", NfTablesMessage::GetRule(RuleMessage { attributes }))
}

/// How many rules [`install`] makes.
pub(super) fn rule_count(masquerade_mark: u32) -> usize {
    let is_rule = |step: &&Step| matches!(step.message, NfTablesMessage::NewRule(_));
    install(masquerade_mark).iter().filter(is_rule).count()
}

/// The packets that the drop chains counted.
pub(super) fn dropped(rules: &[NfTablesMessage]) -> u64 {
    let mut packets = 0;
    for rule in rules {
        let NfTablesMessage::NewRule(RuleMessage { attributes }) = rule else { continue };
        let is_drop = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::Chain(name) if DROP_CHAINS.iter().any(|(chain, _)| chain == name));
        if attributes.iter().any(is_drop) {
            packets += attributes.iter().filter_map(counted).sum::<u64>();
        }
    }
    packets
}

/// What a counter among a rule's expressions says.
fn counted(attribute: &RuleAttribute) -> Option<u64> {
    let RuleAttribute::Expressions(expressions) = attribute else { return None };
    let parts = expressions.iter().filter_map(|expression| match expression {
        ListAttribute::Element(parts) => Some(parts),
        _ => None,
    });
    parts.flatten().find_map(|part| match part {
        ExpressionAttribute::Data(Expressions::Other { expression_type, attributes })
            if expression_type == "counter" =>
        {
            let packets = attributes.iter().find(|attribute| attribute.kind() == COUNTER_PACKETS)?;
            let mut bytes = [0; 8];
            packets.emit_value(&mut bytes);
            Some(u64::from_be_bytes(bytes))
        }
        _ => None,
    })
}

fn step(name: &'static str, message: NfTablesMessage) -> Step {
    Step { name, family: NetfilterProtoFamily::Inet, message }
}

fn table(name: &'static str) -> Step {
    let attributes = vec![TableAttribute::Name(TABLE.to_owned())];
    step(name, NfTablesMessage::NewTable(TableMessage { attributes }))
}

fn chain(name: &'static str, kind: &str, hook: InetHookNumber, priority: u32) -> Step {
    let attributes = vec![
        ChainAttribute::Table(TABLE.to_owned()),
        ChainAttribute::Name(name.to_owned()),
        ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(priority)]),
        ChainAttribute::Type(kind.to_owned()),
    ];
    step(name, NfTablesMessage::NewChain(ChainMessage { attributes }))
}

/// A rule at the end of a chain, from groups of expressions.
fn rule<const N: usize>(chain: &'static str, parts: [Vec<Expressions>; N]) -> Step {
    let expressions: Vec<ListAttribute<ExpressionAttribute>> =
        parts.into_iter().flatten().map(ListAttribute::from).collect();
    let attributes = vec![
        RuleAttribute::Table(TABLE.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions),
    ];
    step(chain, NfTablesMessage::NewRule(RuleMessage { attributes }))
}

/// The mark is a number in host order in the register.
fn value(number: u32) -> DataAttribute {
    DataAttribute::Value(number.to_ne_bytes().to_vec())
}

fn load_mark() -> Expressions {
    Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::DestinationRegister(Register::Reg1)])
}

fn mask(bits: u32) -> Expressions {
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(Register::Reg1),
        Bitwise::DestinationRegister(Register::Reg1),
        Bitwise::Length(4),
        Bitwise::Mask(value(bits)),
        Bitwise::Xor(value(0)),
    ])
}

/// Goes on with the rule if the packet's mark has the bit.
fn mark_has(bit: u32) -> Vec<Expressions> {
    let not_zero =
        Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(Operator::NotEqual), Cmp::Data(value(0))]);
    vec![load_mark(), mask(bit), not_zero]
}

/// Clears the bit in the packet's mark.
fn mark_clear(bit: u32) -> Vec<Expressions> {
    let store = Expressions::Meta(vec![Meta::Key(MetaKey::Mark), Meta::SourceRegister(Register::Reg1)]);
    vec![load_mark(), mask(!bit), store]
}

fn counter() -> Vec<Expressions> {
    vec![other("counter", Vec::new())]
}

fn masquerade() -> Vec<Expressions> {
    vec![other("masq", vec![DefaultNla::new(MASQUERADE_FLAGS, FULLY_RANDOM.to_be_bytes().to_vec())])]
}

fn drop_packet() -> Vec<Expressions> {
    let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))]);
    vec![Expressions::Immediate(vec![Immediate::DestinationRegister(Register::Verdict), Immediate::Data(verdict)])]
}

fn other(expression_type: &str, attributes: Vec<DefaultNla>) -> Expressions {
    Expressions::Other { expression_type: expression_type.to_owned(), attributes }
}
