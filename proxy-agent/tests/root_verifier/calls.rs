//! Which function of a program calls which, and what the deepest chain of calls takes of the stack.

use std::collections::BTreeSet;

use anyhow::Context as _;
use aya_obj::{
    Object,
    generated::{BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL, bpf_insn},
};

/// What a frame is rounded up to (`check_max_stack_depth` in kernel/bpf/verifier.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granularity {
    /// 32 bytes, that of the kernel's interpreter.
    Interpreter,
    /// 16 bytes, which newer kernels use for programs that they compile.
    Compiler,
}

/// The functions of a program, each with the numbers of those that it calls. The first is the program itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls(Vec<BTreeSet<usize>>);

impl Calls {
    /// Reads the instructions of a program of the object, in which every call has been resolved.
    ///
    /// # Errors
    /// The object has no such program, or it makes no sense.
    pub fn of(object: &Object, program: &str) -> anyhow::Result<Self> {
        let program = object.programs.get(program).with_context(|| format!("the object has no {program}"))?;
        let function = object.functions.get(&program.function_key()).context("a program without instructions")?;
        Self::between(&function.instructions)
    }

    fn between(instructions: &[bpf_insn]) -> anyhow::Result<Self> {
        let calls: Vec<(usize, usize)> = instructions
            .iter()
            .enumerate()
            .filter(|(_, instruction)| {
                u32::from(instruction.code) == BPF_JMP | BPF_CALL && u32::from(instruction.src_reg()) == BPF_PSEUDO_CALL
            })
            .map(|(at, instruction)| {
                let next = at + 1;
                let target = next.checked_add_signed(isize::try_from(instruction.imm)?);
                Ok((at, target.context("a call to before the program")?))
            })
            .collect::<anyhow::Result<_>>()?;
        let starts: BTreeSet<usize> = calls.iter().map(|&(_, target)| target).chain([0]).collect();
        let function = |at: usize| starts.range(..=at).count() - 1;
        let mut called = vec![BTreeSet::new(); starts.len()];
        for (at, target) in calls {
            called[function(at)].insert(function(target));
        }
        Ok(Self(called))
    }

    /// What the deepest chain of calls takes in bytes, if each function has one of these frames. `None` if the numbers of
    /// functions and frames differ, because the verifier has removed functions that are never called.
    pub fn deepest_chain(&self, frames: &[u32], granularity: Granularity) -> Option<u32> {
        let frames: Vec<u32> = frames.iter().map(|&frame| granularity.round(frame)).collect();
        (self.0.len() == frames.len()).then(|| self.depth(0, &frames))
    }

    /// Ends, because the verifier has refused every program with a recursion.
    fn depth(&self, function: usize, frames: &[u32]) -> u32 {
        let below = self.0[function].iter().map(|&called| self.depth(called, frames)).max().unwrap_or_default();
        frames[function] + below
    }
}

impl Granularity {
    fn round(self, frame: u32) -> u32 {
        match self {
            Self::Interpreter => frame.max(1).next_multiple_of(32),
            Self::Compiler => frame.next_multiple_of(16),
        }
    }
}

/// `main` calls `left` and `right`, both call `leaf`.
pub fn the_deepest_chain_counts_rounded_frames() {
    let call = |imm: i32| instruction(BPF_JMP | BPF_CALL, BPF_PSEUDO_CALL, imm);
    let helper = instruction(BPF_JMP | BPF_CALL, 0, 1);
    // 0 main: call left, helper, call right; 3 left: call leaf; 4 right: helper, call leaf; 6 leaf
    let program = [call(2), helper, call(1), call(2), helper, call(0), helper];
    let calls = Calls::between(&program).expect("sound");
    assert_eq!(calls, Calls(vec![[1, 2].into(), [3].into(), [3].into(), [].into()]));
    // main 32, then left 32 and leaf 128, or right 96 and leaf 128.
    let chain = |frames: &[u32]| calls.deepest_chain(frames, Granularity::Interpreter);
    assert_eq!(chain(&[8, 0, 65, 128]), Some(32 + 96 + 128));
    assert_eq!(chain(&[8, 300, 65, 128]), Some(32 + 320 + 128));
    assert_eq!(chain(&[8, 0, 0, 0]), Some(32 + 32 + 32));
    assert_eq!(chain(&[8, 65, 128]), None);
    assert_eq!(calls.deepest_chain(&[8, 0, 65, 128], Granularity::Compiler), Some(16 + 80 + 128));
}

fn instruction(code: u32, source: u32, imm: i32) -> bpf_insn {
    let narrow = |number: u32| u8::try_from(number).expect("a small constant");
    bpf_insn {
        code: narrow(code),
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(0, narrow(source)),
        off: 0,
        imm,
    }
}
