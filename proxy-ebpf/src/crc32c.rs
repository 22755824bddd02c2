//! SCTP's checksum (RFC 9260 Appendix A), and how it changes when the first bytes of a packet do.
//!
//! A CRC is the remainder of the message, taken as a polynomial over GF(2), divided by a fixed polynomial. Remainders
//! add up (exclusive or), so the CRC of a changed message is the CRC of the former one plus that of the difference, and what
//! the CRC starts from and ends with drops out. The difference is a few bytes followed by zeros, and a message
//! followed by `n` zero bytes is that message times x^(8n).
//!
//! Representation: the first bit on the wire is the lowest of a byte and stands for the highest power of x; so in a number,
//! bit 31 is the coefficient of x^0 and bit 0 that of x^31, and a CRC is sent with its lowest byte first.

/// x^32 modulo the polynomial (RFC 9260 Appendix A).
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^0.
const ONE: u32 = 1 << 31;
/// x^8, which a byte is multiplied by when another follows.
const BYTE: u32 = ONE >> 8;

/// What a number becomes by being multiplied by a constant: `[j][k]` is the product of k, taken as the number's
/// digit j to base 16.
type Products = [[u32; 16]; 8];

/// For the digits of a length to base 16: `BY_LENGTH[i][k]` multiplies by x^(8 k 16^i). No decision is taken on single bits, for a
/// verifier would follow each.
static BY_LENGTH: [[Products; 16]; 4] = by_length();

/// How the CRC of `len` bytes (less than 2^16) changes if their first four change by `difference`: their exclusive or with what
/// they become, the first byte lowest. To be added to the CRC by exclusive or.
///
/// A function of its own in the kernel: it is used in several places, and not by most packets.
#[inline(never)]
#[must_use]
pub fn change(difference: u32, len: u32) -> u32 {
    let mut change = difference;
    let mut digit = 0;
    while digit < BY_LENGTH.len() {
        change = product(&BY_LENGTH[digit][(len >> (4 * digit)) as usize & 15], change);
        digit += 1;
    }
    change
}

/// The CRC of a whole short message, as it is in the packet.
#[inline(always)]
#[must_use]
pub fn of<const N: usize>(message: &[u8; N]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in message {
        crc = product(&BY_LENGTH[0][1], crc ^ u32::from(*byte));
    }
    (!crc).to_le_bytes()
}

#[inline(always)]
const fn product(products: &Products, number: u32) -> u32 {
    let mut product = 0;
    let mut digit = 0;
    while digit < products.len() {
        product ^= products[digit][(number >> (4 * digit)) as usize & 15];
        digit += 1;
    }
    product
}

#[expect(clippy::large_stack_arrays, reason = "evaluated by the compiler; nothing calls it at run time")]
const fn by_length() -> [[Products; 16]; 4] {
    let mut all = [[[[0; 16]; 8]; 16]; 4];
    let mut step = BYTE;
    let mut digit = 0;
    while digit < 4 {
        let mut power = ONE;
        let mut value = 0;
        while value < 16 {
            all[digit][value] = products(power);
            power = multiply(power, step);
            value += 1;
        }
        step = power;
        digit += 1;
    }
    all
}

const fn products(factor: u32) -> Products {
    let mut products = [[0; 16]; 8];
    let mut digit = 0;
    while digit < products.len() {
        let mut value: u32 = 0;
        while value < 16 {
            products[digit][value as usize] = multiply(value << (4 * digit), factor);
            value += 1;
        }
        digit += 1;
    }
    products
}

/// The product modulo the polynomial, bit by bit.
const fn multiply(mut left: u32, mut right: u32) -> u32 {
    let mut product = 0;
    while left != 0 {
        if left >> 31 != 0 {
            product ^= right;
        }
        left <<= 1;
        right = if right & 1 == 0 { right >> 1 } else { right >> 1 ^ POLYNOMIAL };
    }
    product
}
