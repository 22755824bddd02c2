//! Seconds from nanoseconds, without the division that most processors take longest for.

/// Whole seconds of a time in nanoseconds since boot. As good as `nanoseconds / 1_000_000_000`, for 136 years.
///
/// A product with the reciprocal, scaled so that the error stays below one (Granlund and Montgomery, "Division by invariant
/// integers using multiplication", 1994). BPF multiplies 64 bits and keeps the lower 64, so the product is put together from halves.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "seconds since boot fit 32 bits for 136 years")]
pub const fn seconds(nanoseconds: u64) -> u32 {
    // 2^75 / (10^9 / 2^9), rounded up; both factors have 55 bits, so no sum overflows.
    const RECIPROCAL: u64 = 0x0044_b82f_a09b_5a53;
    const HIGH: u64 = RECIPROCAL >> 32;
    const LOW: u64 = RECIPROCAL & 0xffff_ffff;
    let (high, low) = (nanoseconds >> 41, (nanoseconds >> 9) & 0xffff_ffff);
    let middle = high * LOW + low * HIGH + ((low * LOW) >> 32);
    ((high * HIGH + (middle >> 32)) >> 11) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_is_the_quotient() {
        // Seconds of a year, and of as many years as there are, in steps that share no factor with anything.
        for second in (0..31_557_600_u64).step_by(997).chain((0..u64::from(u32::MAX)).step_by(1_000_003)) {
            let second = u32::try_from(second).expect("so many there are");
            for within in [0, 1, 2, 511, 512, 513, SECOND / 2, SECOND - 513, SECOND - 512, SECOND - 2, SECOND - 1] {
                assert_eq!(seconds(u64::from(second) * SECOND + within), second, "{second} s and {within} ns");
            }
        }
    }
}
