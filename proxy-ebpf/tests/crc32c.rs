//! SCTP's checksum against published values and against a computation bit by bit.

use proptest::{prelude::*, test_runner::Config};
use proxy_ebpf::{crc32c, fixtures::frames};

#[test]
fn the_independent_computation_agrees_with_published_values() {
    // RFC 3720 B.4, and the check value of the CRC catalogues.
    assert_eq!(frames::crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(frames::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(frames::crc32c(&[0xff; 32]), 0x62a8_ab43);
}

#[test]
fn short_messages_agree_with_published_values() {
    assert_eq!(crc32c::of(b"123456789"), 0xe306_9283_u32.to_le_bytes());
    assert_eq!(crc32c::of(&[0; 32]), 0x8a91_36aa_u32.to_le_bytes());
    assert_eq!(crc32c::of(b""), [0; 4]);
}

/// The longest messages, and lengths in which single digits differ.
#[test]
fn every_digit_of_the_length_counts() {
    for len in [4, 5, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, 65_535] {
        let mut message: Vec<u8> = (0..=255).cycle().take(len).collect();
        let before = frames::crc32c(&message);
        let difference = [0x81, 0x42, 0, 0xff];
        message.iter_mut().zip(difference).for_each(|(byte, change)| *byte ^= change);
        let change = crc32c::change(u32::from_le_bytes(difference), u32::try_from(len).expect("short"));
        assert_eq!(before ^ change, frames::crc32c(&message), "{len}");
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn a_change_of_the_first_bytes_is_foreseen(
        mut message in proptest::collection::vec(any::<u8>(), 4..2000),
        difference in any::<[u8; 4]>(),
    ) {
        let before = frames::crc32c(&message);
        let len = u32::try_from(message.len()).expect("short");
        message.iter_mut().zip(difference).for_each(|(byte, change)| *byte ^= change);
        prop_assert_eq!(before ^ crc32c::change(u32::from_le_bytes(difference), len), frames::crc32c(&message));
    }

    #[test]
    fn a_short_message_is_summed_right(message in any::<[u8; 16]>()) {
        prop_assert_eq!(crc32c::of(&message), frames::crc32c(&message).to_le_bytes());
    }
}
