//! The TC programs' common body: which stage of the pipeline follows which.
//!
//! The verifier follows all paths through a function, and again for whatever its caller may know; so it looks at most stages by
//! themselves, once ([`apart!`]). Those that each packet passes are parts of the programs.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::trace;
use proxy_common::{Decided, DecidedAt, Direction, DropReason, Family, V4, V6};
use proxy_ebpf::{
    Verdict,
    tc::{self, Stage, TcFamily, Work},
};

use super::{config, maps::FamilyMaps, skb::Skb, tables::KernelTables, trace};

/// Where the program is attached.
#[derive(Clone, Copy)]
pub(super) enum Hook {
    Ingress,
    Egress,
}

/// Runs the hook's pipeline for the packet's family. `L3` is the offset of the IP header.
#[inline(always)]
pub(super) fn run<const L3: usize>(context: &TcContext, hook: Hook) -> i32 {
    let raw = context.skb.skb;
    // SAFETY: the context is valid for as long as the program runs. The field holds the `EtherType` without VLAN
    // tags, in network order in its first two bytes.
    let [high, low, ..] = unsafe { (*raw).protocol }.to_ne_bytes();
    let action = match u16::from_be_bytes([high, low]) {
        V4::ETHERTYPE => stages::<V4, L3>(raw, hook),
        V6::ETHERTYPE => stages::<V6, L3>(raw, hook),
        _ => NEXT,
    };
    // One place for the log of all stages: the verifier would look at each.
    match action {
        // Nothing that leaves the node is answered; the verifier would remove a call that it never reaches.
        ANSWERED if matches!(hook, Hook::Ingress) => {
            trace!(context, "packet refused: {}", DropReason::NoEndpoint.name());
            Skb::new(raw).send_back()
        }
        DROPPED.. => {
            tell(context, action - DROPPED);
            DROP
        }
        action => action,
    }
}

/// Tells the packet log why a packet is dropped.
#[inline(always)]
fn tell(context: &TcContext, number: i32) {
    for reason in DropReason::ALL {
        if reason as i32 == number {
            trace!(context, "packet dropped: {}", reason.name());
        }
    }
}

/// Lets the next program on the hook decide; without one, the packet goes on.
const NEXT: i32 = TC_ACT_UNSPEC;
/// The packet goes where a helper was told.
const SEND: i32 = TC_ACT_REDIRECT;
/// Ends the packet here.
const DROP: i32 = TC_ACT_SHOT;
/// The first of the numbers that are not the kernel's: continue with a stage, whose own number is added.
const CONTINUE: i32 = i32::MAX - 64;
const MATCH: i32 = CONTINUE + Stage::Match as i32;
const ADMIT: i32 = CONTINUE + Stage::Admit as i32;
const YOUNG: i32 = CONTINUE + Stage::Young as i32;
const YOUNG_REPLY: i32 = CONTINUE + Stage::YoungReply as i32;
const CHOOSE: i32 = CONTINUE + Stage::Choose as i32;
const EVADE: i32 = CONTINUE + Stage::Evade as i32;
const REMEMBER: i32 = CONTINUE + Stage::Remember as i32;
const FOLLOW: i32 = CONTINUE + Stage::Follow as i32;
const REFUSE: i32 = CONTINUE + Stage::Refuse as i32;
const LEAVE: i32 = CONTINUE + Stage::Leave as i32;
const CHANGE_PORT: i32 = CONTINUE + Stage::ChangePort as i32;
const ERROR: i32 = CONTINUE + Stage::Error as i32;
const CORRECT: i32 = CONTINUE + Stage::Correct as i32;
const LATER_FRAGMENT: i32 = CONTINUE + Stage::LaterFragment as i32;
const FORWARD: i32 = CONTINUE + Stage::Forward as i32;
const RETURN: i32 = CONTINUE + Stage::Return as i32;
const SEND_BACK: i32 = CONTINUE + Stage::SendBack as i32;
/// The packet has become an answer to its sender.
const ANSWERED: i32 = CONTINUE + 31;
/// The packet ends here; the number of the reason is added.
const DROPPED: i32 = CONTINUE + 32;

/// [`Direction`] as a parameter of a function that exists once for each.
const ORIGINAL: u8 = Direction::Original as u8;
const REPLY: u8 = Direction::Reply as u8;

#[inline(always)]
fn stages<F: Apart, const L3: usize>(raw: *mut __sk_buff, hook: Hook) -> i32 {
    let Some(mut work) = Place::<F>::find() else { return NEXT };
    let action = inspect::<F, L3>(raw, work.get());
    match hook {
        Hook::Ingress => entering(raw, work, action),
        Hook::Egress => leaving(raw, work, action),
    }
}

/// Where it is kept what is known of the packet that this CPU handles. Stages that find it by themselves change it behind the back of who calls
/// them, so nobody keeps a reference to it.
struct Place<F: TcFamily>(*mut Work<F>);

impl<F: TcFamily + FamilyMaps> Place<F> {
    #[inline(always)]
    fn find() -> Option<Self> {
        F::work().get_ptr_mut(0).map(Self)
    }

    /// For one stage.
    #[inline(always)]
    fn get(&mut self) -> &mut Work<F> {
        // SAFETY: the element is this CPU's own, and TC programs run one after another on a CPU (with softirqs disabled), so
        // nobody else reads or writes it until this program ends. What no stage wrote yet is zeros, and no stage reads it.
        unsafe { &mut *self.0 }
    }
}

/// The stages of a packet into the node.
#[inline(always)]
fn entering<F: Apart>(raw: *mut __sk_buff, mut work: Place<F>, inspected: i32) -> i32 {
    let mut action = inspected;
    let mut began = false;
    if action == MATCH {
        action = ingress::<F>(raw, work.get());
    }
    if config::has_host_routing() {
        if action == RETURN {
            action = returns::<F>(work.get());
        }
        if action == SEND_BACK {
            action = send_back::<F>(raw, work.get());
        }
        if action == FORWARD {
            action = forward::<F>(raw, work.get());
        }
    }
    if action == YOUNG {
        action = F::young(raw);
    }
    // Most packets.
    if action == NEXT && !work.get().is_first_fragment() {
        return NEXT;
    }
    if action == ADMIT {
        action = F::admit(raw);
    }
    if action == CHOOSE {
        action = F::choose();
    }
    for _ in 0..tc::ATTEMPTS {
        if action == EVADE {
            action = F::evade();
        }
    }
    if action == REMEMBER {
        action = F::remember();
        began = action == FOLLOW;
    }
    if action == FOLLOW {
        action = F::follow(raw);
    }
    if action == REFUSE {
        action = F::refuse(raw);
    }
    if action == ERROR {
        action = F::error_in(raw);
    }
    if action == CORRECT {
        action = F::correct_in(raw);
    }
    if action == LATER_FRAGMENT {
        action = F::later_fragment_in(raw);
    }
    if action == CHANGE_PORT {
        action = F::change_port_in(raw);
    }
    if action == NEXT && work.get().is_first_fragment() {
        action = F::note_fragment_in(raw);
    }
    if action >= ANSWERED {
        action = F::count_end(action);
    }
    // Nothing is told of what goes the way that was decided before, and hardly ever does anybody listen.
    if (began || action >= ANSWERED) && trace::is_on() {
        F::tell_in(raw, action);
    }
    action
}

/// The stages of a packet out of the node.
#[inline(always)]
fn leaving<F: Apart>(raw: *mut __sk_buff, mut work: Place<F>, inspected: i32) -> i32 {
    let mut action = inspected;
    if action == MATCH {
        action = egress::<F>(raw, work.get());
    }
    if action == YOUNG_REPLY {
        action = F::young_reply(raw);
    }
    // Most packets.
    if action == NEXT && !work.get().is_first_fragment() {
        return NEXT;
    }
    if action == LEAVE {
        action = F::leave();
    }
    if action == ERROR {
        action = F::error_out(raw);
    }
    if action == CORRECT {
        action = F::correct_out(raw);
    }
    if action == LATER_FRAGMENT {
        action = F::later_fragment_out(raw);
    }
    if action == CHANGE_PORT {
        action = F::change_port_out(raw);
    }
    if action == NEXT && work.get().is_first_fragment() {
        action = F::note_fragment_out(raw);
    }
    if action >= ANSWERED {
        action = F::count_end(action);
    }
    if action >= ANSWERED && trace::is_on() {
        F::tell_out(raw, action);
    }
    action
}

/// Stages that are functions of their own, with the linkage that makes the verifier look at each by itself and once: global ones (kernel commit
/// 51c39bb1d5d1). It knows nothing of what their callers know, and callers know nothing of what they return.
macro_rules! apart {
    ($($stage:ident($($argument:ident: $Type:ty),*): $v4:ident, $v6:ident = $run:expr;)*) => {
        /// A family whose stages these are.
        trait Apart: TcFamily + FamilyMaps {
            $(fn $stage($($argument: $Type),*) -> i32;)*
        }

        impl Apart for V4 {
            $(#[inline(always)]
            fn $stage($($argument: $Type),*) -> i32 {
                $v4($($argument),*)
            })*
        }

        impl Apart for V6 {
            $(#[inline(always)]
            fn $stage($($argument: $Type),*) -> i32 {
                $v6($($argument),*)
            })*
        }

        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v4($($argument: $Type),*) -> i32 {
                Place::<V4>::find().map_or(NEXT, |mut work| $run($($argument,)* work.get()))
            }

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $v6($($argument: $Type),*) -> i32 {
                Place::<V6>::find().map_or(NEXT, |mut work| $run($($argument,)* work.get()))
            }
        )*
    };
}

/// The packet, as the kernel hands it to a program; by this type the verifier knows it.
type Raw = *mut __sk_buff;

// Those without the packet have no argument: the compiler would not pass one that is not used, and the verifier wants each.
apart! {
    young(raw: Raw): young_v4, young_v6 = young;
    young_reply(raw: Raw): young_reply_v4, young_reply_v6 = young_reply;
    admit(raw: Raw): admit_v4, admit_v6 = admit;
    choose(): choose_v4, choose_v6 = choose;
    evade(): evade_v4, evade_v6 = evade;
    remember(): remember_v4, remember_v6 = remember;
    follow(raw: Raw): follow_v4, follow_v6 = follow;
    refuse(raw: Raw): refuse_v4, refuse_v6 = refuse;
    leave(): leave_v4, leave_v6 = leave;
    error_in(raw: Raw): error_in_v4, error_in_v6 = error::<_, ORIGINAL>;
    error_out(raw: Raw): error_out_v4, error_out_v6 = error::<_, REPLY>;
    correct_in(raw: Raw): correct_in_v4, correct_in_v6 = correct::<_, ORIGINAL>;
    correct_out(raw: Raw): correct_out_v4, correct_out_v6 = correct::<_, REPLY>;
    later_fragment_in(raw: Raw): later_fragment_in_v4, later_fragment_in_v6 = later_fragment::<_, ORIGINAL>;
    later_fragment_out(raw: Raw): later_fragment_out_v4, later_fragment_out_v6 = later_fragment::<_, REPLY>;
    change_port_in(raw: Raw): change_port_in_v4, change_port_in_v6 = change_port::<_, ORIGINAL>;
    change_port_out(raw: Raw): change_port_out_v4, change_port_out_v6 = change_port::<_, REPLY>;
    note_fragment_in(raw: Raw): note_fragment_in_v4, note_fragment_in_v6 = note_fragment::<_, ORIGINAL>;
    note_fragment_out(raw: Raw): note_fragment_out_v4, note_fragment_out_v6 = note_fragment::<_, REPLY>;
    count_end(action: i32): count_end_v4, count_end_v6 = count_end;
    tell_in(raw: Raw, action: i32): tell_in_v4, tell_in_v6 = tell_decision::<_, ORIGINAL>;
    tell_out(raw: Raw, action: i32): tell_out_v4, tell_out_v6 = tell_decision::<_, REPLY>;
}

/// What comes of it is read from `work` by the next stage, which the verifier therefore looks at once, and not once for each
/// number of extension headers.
#[inline(never)]
fn inspect<F: TcFamily, const L3: usize>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::inspect(&Skb::new(raw), work, L3))
}

#[inline(never)]
fn ingress<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::ingress(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn egress<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::egress(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn forward<F: TcFamily>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::forward(&mut Skb::new(raw), work))
}

#[inline(never)]
fn returns<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::returns(&mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn send_back<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::send_back(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn young<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::young(&Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn young_reply<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::young_reply(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn admit<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::admit(&Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn choose<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::choose(&mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn evade<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::evade(&mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn change_port<F: TcFamily, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::change_port(&mut Skb::new(raw), work, direction::<DIRECTION>()))
}

#[inline(always)]
fn remember<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::remember(&mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn follow<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::follow(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn refuse<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::refuse(&mut Skb::new(raw), &KernelTables::<F>::new(), work))
}

#[inline(always)]
fn leave<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::leave(&mut KernelTables::<F>::new(), work))
}

#[inline(always)]
fn error<F: TcFamily + FamilyMaps, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::error(&Skb::new(raw), &mut KernelTables::<F>::new(), work, direction::<DIRECTION>()))
}

#[inline(always)]
fn correct<F: TcFamily, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::correct(&mut Skb::new(raw), work, direction::<DIRECTION>()))
}

#[inline(always)]
fn later_fragment<F: TcFamily + FamilyMaps, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    let verdict = tc::later_fragment(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work, direction::<DIRECTION>());
    action(verdict)
}

#[inline(always)]
fn note_fragment<F: TcFamily + FamilyMaps, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::note_fragment(&Skb::new(raw), &mut KernelTables::<F>::new(), work, direction::<DIRECTION>()))
}

#[inline(always)]
fn count_end<F: TcFamily + FamilyMaps>(action: i32, work: &mut Work<F>) -> i32 {
    if let Some(reason) = ended(action) {
        tc::count_end(&mut KernelTables::<F>::new(), work, reason);
    }
    action
}

/// Why a packet has not gone on, by the action that came of it; `None` if it has.
#[inline(always)]
fn ended(action: i32) -> Option<DropReason> {
    match action {
        ANSWERED => Some(DropReason::NoEndpoint),
        DROPPED.. => DropReason::ALL.into_iter().find(|reason| *reason as i32 == action - DROPPED),
        _ => None,
    }
}

/// Tells what was decided about a packet, by the action that came of it.
#[inline(always)]
fn tell_decision<F: TcFamily, const DIRECTION: u8>(raw: *mut __sk_buff, action: i32, work: &mut Work<F>) -> i32 {
    let decided = match ended(action) {
        None => Decided::Begins,
        Some(_) if action == ANSWERED => Decided::Refused,
        Some(reason) => Decided::Dropped(reason),
    };
    let at = if DIRECTION == ORIGINAL { DecidedAt::Ingress } else { DecidedAt::Egress };
    trace::tell(&mut tc::decision(&Skb::new(raw), work, at, decided));
    action
}

#[inline(always)]
const fn direction<const DIRECTION: u8>() -> Direction {
    if DIRECTION == ORIGINAL { Direction::Original } else { Direction::Reply }
}

#[inline(always)]
fn action(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => NEXT,
        Verdict::Drop(reason) => DROPPED + reason as i32,
        Verdict::Answer => ANSWERED,
        Verdict::SendOn => SEND,
        Verdict::Continue(stage) => CONTINUE + stage as i32,
    }
}
