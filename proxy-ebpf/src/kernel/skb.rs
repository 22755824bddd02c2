//! The skb as the pipeline's packet, and the TC programs' common body.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_REDIRECT, TC_ACT_SHOT,
        TC_ACT_UNSPEC,
    },
    helpers::{bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes},
    programs::TcContext,
};
use aya_log_ebpf::trace;
use proxy_common::{Decided, DecidedAt, Direction, DropReason, Family, V4, V6};
use proxy_ebpf::{
    Packet, Truncated, Verdict,
    packet::{Change, Journey, ZeroChecksum},
    tc::{self, Stage, TcFamily, Work},
};

use super::{
    config, direct,
    maps::FamilyMaps,
    route::{self, Way},
    tables::KernelTables,
    trace,
};

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

/// The packet is addressed to the device that it came in on (`PACKET_HOST`).
const PACKET_HOST: u32 = 0;

/// [`Direction`] as a parameter of a function that exists once for each.
const ORIGINAL: u8 = Direction::Original as u8;
const REPLY: u8 = Direction::Reply as u8;

#[inline(always)]
fn stages<F: TcFamily + FamilyMaps, const L3: usize>(raw: *mut __sk_buff, hook: Hook) -> i32 {
    let Some(work) = F::work().get_ptr_mut(0) else { return NEXT };
    // SAFETY: the element is this CPU's own, and TC programs run one after another on a CPU (with softirqs disabled), so
    // nobody else reads or writes it until this program ends. What no stage wrote yet is zeros, and no stage reads it.
    let work = unsafe { &mut *work };
    let action = inspect::<F, L3>(raw, work);
    match hook {
        Hook::Ingress => entering(raw, work, action),
        Hook::Egress => leaving(raw, work, action),
    }
}

/// The stages of a packet into the node.
#[inline(always)]
fn entering<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>, inspected: i32) -> i32 {
    let mut action = inspected;
    let mut began = false;
    if action == MATCH {
        action = ingress::<F>(raw, work);
    }
    if config::has_host_routing() {
        if action == RETURN {
            action = returns::<F>(work);
        }
        if action == SEND_BACK {
            action = send_back::<F>(raw, work);
        }
        if action == FORWARD {
            action = forward::<F>(raw, work);
        }
    }
    if action == YOUNG {
        action = young::<F>(raw, work);
    }
    // Most packets.
    if action == NEXT && !work.is_first_fragment() {
        return NEXT;
    }
    if action == ADMIT {
        action = admit::<F>(raw, work);
    }
    if action == CHOOSE {
        action = choose::<F>(work);
    }
    for _ in 0..tc::ATTEMPTS {
        if action == EVADE {
            action = evade::<F>(work);
        }
    }
    if action == REMEMBER {
        action = remember::<F>(work);
        began = action == FOLLOW;
    }
    if action == FOLLOW {
        action = follow::<F>(raw, work);
    }
    if action == REFUSE {
        action = refuse::<F>(raw, work);
    }
    if action == ERROR {
        action = error::<F, ORIGINAL>(raw, work);
    }
    if action == CORRECT {
        action = correct::<F, ORIGINAL>(raw, work);
    }
    if action == LATER_FRAGMENT {
        action = later_fragment::<F, ORIGINAL>(raw, work);
    }
    if action == CHANGE_PORT {
        action = change_port::<F, ORIGINAL>(raw, work);
    }
    if action == NEXT && work.is_first_fragment() {
        action = note_fragment::<F, ORIGINAL>(raw, work);
    }
    // Nothing is told of what goes the way that was decided before, and hardly ever does anybody listen.
    if (began || action >= ANSWERED) && trace::is_on() {
        tell_decision::<F, ORIGINAL>(raw, work, action);
    }
    action
}

/// The stages of a packet out of the node.
#[inline(always)]
fn leaving<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>, inspected: i32) -> i32 {
    let mut action = inspected;
    if action == MATCH {
        action = egress::<F>(raw, work);
    }
    if action == YOUNG_REPLY {
        action = young_reply::<F>(raw, work);
    }
    // Most packets.
    if action == NEXT && !work.is_first_fragment() {
        return NEXT;
    }
    if action == LEAVE {
        action = leave::<F>(work);
    }
    if action == ERROR {
        action = error::<F, REPLY>(raw, work);
    }
    if action == CORRECT {
        action = correct::<F, REPLY>(raw, work);
    }
    if action == LATER_FRAGMENT {
        action = later_fragment::<F, REPLY>(raw, work);
    }
    if action == CHANGE_PORT {
        action = change_port::<F, REPLY>(raw, work);
    }
    if action == NEXT && work.is_first_fragment() {
        action = note_fragment::<F, REPLY>(raw, work);
    }
    if action >= ANSWERED && trace::is_on() {
        tell_decision::<F, REPLY>(raw, work, action);
    }
    action
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

#[inline(never)]
fn young<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::young(&Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn young_reply<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::young_reply(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn admit<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::admit(&Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn choose<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::choose(&mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn evade<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::evade(&mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn change_port<F: TcFamily + FamilyMaps, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    let verdict = tc::change_port(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work, direction::<DIRECTION>());
    action(verdict)
}

#[inline(never)]
fn remember<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::remember(&mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn follow<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::follow(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn refuse<F: TcFamily + FamilyMaps>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::refuse(&mut Skb::new(raw), &KernelTables::<F>::new(), work))
}

#[inline(never)]
fn leave<F: TcFamily + FamilyMaps>(work: &mut Work<F>) -> i32 {
    action(tc::leave(&mut KernelTables::<F>::new(), work))
}

#[inline(never)]
fn error<F: TcFamily + FamilyMaps, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::error(&Skb::new(raw), &mut KernelTables::<F>::new(), work, direction::<DIRECTION>()))
}

#[inline(never)]
fn correct<F: TcFamily + FamilyMaps, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::correct(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work, direction::<DIRECTION>()))
}

#[inline(never)]
fn later_fragment<F: TcFamily + FamilyMaps, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    let verdict = tc::later_fragment(&mut Skb::new(raw), &mut KernelTables::<F>::new(), work, direction::<DIRECTION>());
    action(verdict)
}

#[inline(never)]
fn note_fragment<F: TcFamily + FamilyMaps, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>) -> i32 {
    action(tc::note_fragment(&Skb::new(raw), &mut KernelTables::<F>::new(), work, direction::<DIRECTION>()))
}

/// Tells what was decided about a packet, by the action that came of it.
#[inline(never)]
fn tell_decision<F: TcFamily, const DIRECTION: u8>(raw: *mut __sk_buff, work: &mut Work<F>, action: i32) {
    let decided = match action {
        ANSWERED => Decided::Refused,
        DROPPED.. => match DropReason::ALL.into_iter().find(|reason| *reason as i32 == action - DROPPED) {
            Some(reason) => Decided::Dropped(reason),
            None => return,
        },
        _ => Decided::Begins,
    };
    let at = if DIRECTION == ORIGINAL { DecidedAt::Ingress } else { DecidedAt::Egress };
    trace::tell(&mut tc::decision(&Skb::new(raw), work, at, decided));
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

/// Bytes of the packet on the stack, where fields of any size are read by one instruction each.
#[repr(align(8))]
struct Aligned<T>(MaybeUninit<T>);

/// A packet in a TC hook.
struct Skb {
    context: TcContext,
}

impl Skb {
    #[inline(always)]
    const fn new(raw: *mut __sk_buff) -> Self {
        Self { context: TcContext::new(raw) }
    }

    #[inline(always)]
    const fn raw(&self) -> *mut __sk_buff {
        self.context.skb.skb
    }

    #[inline(always)]
    fn send_back(&self) -> i32 {
        // SAFETY: the helper only notes the device; the kernel acts on it after the program ended.
        let action = unsafe { bpf_redirect(self.device(), 0) };
        i32::try_from(action).unwrap_or(DROP)
    }
}

#[inline(always)]
fn done(result: Result<(), i64>) -> Result<(), Truncated> {
    result.map_err(|_| Truncated)
}

impl Packet for Skb {
    #[inline(always)]
    fn size(&self) -> usize {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.raw()).len as usize }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Result<[u8; N], Truncated> {
        let (Ok(offset), Ok(len)) = (u32::try_from(offset), u32::try_from(N)) else { return Err(Truncated) };
        let mut bytes = Aligned(MaybeUninit::<[u8; N]>::uninit());
        // SAFETY: the context is valid for as long as the program runs, and `bytes` has room for `N` bytes.
        match unsafe { bpf_skb_load_bytes(self.raw().cast(), offset, bytes.0.as_mut_ptr().cast(), len) } {
            // SAFETY: the helper has written all of them.
            0 => Ok(unsafe { bytes.0.assume_init() }),
            _ => Err(Truncated),
        }
    }

    #[inline(always)]
    fn read_header<const N: usize, R>(
        &self,
        offset: usize,
        reader: impl FnOnce(&[u8; N]) -> R,
    ) -> Result<R, Truncated> {
        let mut header = direct::Room::uninit();
        // SAFETY: the context is valid for as long as the program runs.
        if !unsafe { direct::copy::<N>(self.raw(), offset, &mut header) } {
            let (Ok(offset), Ok(len)) = (u32::try_from(offset), u32::try_from(N)) else { return Err(Truncated) };
            // SAFETY: as above, and there is room for `N` bytes.
            if unsafe { bpf_skb_load_bytes(self.raw().cast(), offset, header.as_mut_ptr().cast(), len) } != 0 {
                return Err(Truncated);
            }
        }
        // SAFETY: `N` bytes have been written, one way or the other.
        Ok(reader(unsafe { &*header.as_ptr().cast::<[u8; N]>() }))
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        done(self.context.store(offset, bytes, 0))
    }

    #[inline(always)]
    fn store_words<const N: usize>(&mut self, offset: usize, words: &[u32; N]) -> Result<(), Truncated> {
        done(self.context.store(offset, words, 0))
    }

    #[inline(always)]
    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Result<(), Truncated> {
        done(self.context.store(offset, bytes, u64::from(BPF_F_RECOMPUTE_CSUM)))
    }

    #[inline(always)]
    fn adjust_header_checksum(&mut self, offset: usize, difference: u32) -> Result<(), Truncated> {
        done(self.context.l3_csum_replace(offset, 0, u64::from(difference), 0))
    }

    #[inline(always)]
    fn adjust_transport_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        change: Change,
        zero: ZeroChecksum,
    ) -> Result<(), Truncated> {
        let pseudo = match change {
            Change::PseudoHeader => BPF_F_PSEUDO_HDR,
            Change::Segment => 0,
        };
        let mangled = match zero {
            ZeroChecksum::Absent => BPF_F_MARK_MANGLED_0,
            ZeroChecksum::Value => 0,
        };
        done(self.context.l4_csum_replace(offset, 0, u64::from(difference), u64::from(pseudo | mangled)))
    }

    #[inline(always)]
    fn checksum_is_pending(&mut self, scratch: usize) -> Result<bool, Truncated> {
        // The helper leaves the field alone for a change in the segment if the checksum is pending, and adds the
        // difference otherwise (inet_proto_csum_replace_by_diff). That is the only way to tell from here.
        const FIELD: [u8; 2] = [0x12, 0x34];
        self.store(scratch, &FIELD)?;
        self.adjust_transport_checksum(scratch, 1, Change::Segment, ZeroChecksum::Value)?;
        let after: [u8; 2] = self.load(scratch)?;
        Ok(after[0] == FIELD[0] && after[1] == FIELD[1])
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Result<(), Truncated> {
        let len = u32::try_from(len).map_err(|_| Truncated)?;
        // SAFETY: the context is valid; direct packet pointers, which the helper would invalidate, are never held.
        match unsafe { bpf_skb_change_tail(self.raw(), len, 0) } {
            0 => Ok(()),
            _ => Err(Truncated),
        }
    }

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.raw()).mark }
    }

    #[inline(always)]
    fn set_mark(&mut self, mark: u32) {
        self.context.set_mark(mark);
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is valid for as long as the program runs.
        unsafe { (*self.raw()).ifindex }
    }

    #[inline(always)]
    fn can_be_sent_on(&self) -> bool {
        // SAFETY: the context is valid for as long as the program runs.
        config::has_host_routing()
            && unsafe { (*self.raw()).pkt_type == PACKET_HOST && (*self.raw()).vlan_present == 0 }
    }

    #[inline(always)]
    fn segment_size(&self) -> Option<u16> {
        // SAFETY: the context is valid for as long as the program runs.
        match unsafe { (*self.raw()).gso_size } {
            0 => None,
            size => Some(u16::try_from(size).unwrap_or(u16::MAX)),
        }
    }

    type Way = Way;

    #[inline(always)]
    fn way(&self, journey: &Journey) -> Option<Way> {
        route::look_up(self.raw(), journey)
    }

    #[inline(always)]
    fn send_on(&mut self, way: &Way) {
        route::send(way);
    }
}
