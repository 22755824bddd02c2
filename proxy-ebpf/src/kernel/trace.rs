//! Telling decisions to those who follow them, through their ring buffers.

use aya_ebpf::{bindings::BPF_RB_NO_WAKEUP, helpers::bpf_ktime_get_ns};
use proxy_common::{Decision, TRACES, Trace};
use proxy_ebpf::{clock, trace};

use super::maps::{EVENTS_0, EVENTS_1, EVENTS_2, EVENTS_3, Events, TRACE_RATES, TRACES_TABLE};

/// Whether anybody may be following. Costs a look at each place, and no clock.
#[inline(always)]
pub(super) fn is_on() -> bool {
    let mut index = 0;
    while (index as usize) < TRACES {
        if TRACES_TABLE.get(index).is_some_and(Trace::is_on) {
            return true;
        }
        index += 1;
    }
    false
}

/// Tells whoever asked for such a decision.
#[inline(always)]
pub(super) fn tell(decision: &mut Decision) {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    decision.set_time(now);
    let second = clock::seconds(now);
    offer(0, &EVENTS_0, decision, second);
    offer(1, &EVENTS_1, decision, second);
    offer(2, &EVENTS_2, decision, second);
    offer(3, &EVENTS_3, decision, second);
}

#[inline(always)]
fn offer(number: u32, events: &Events, decision: &Decision, second: u32) {
    let Some(asked) = TRACES_TABLE.get(number) else { return };
    if !trace::wants(asked, decision) {
        return;
    }
    let Some(rate) = TRACE_RATES.get_ptr_mut(number) else { return };
    // SAFETY: the element is this CPU's own. A TC program may interrupt a socket hook in the middle of it, which costs a count.
    let rate = unsafe { &mut *rate };
    // Whoever follows looks often enough by himself.
    if rate.admit(second) && events.output(decision, u64::from(BPF_RB_NO_WAKEUP)).is_err() {
        rate.leave_out();
    }
}
