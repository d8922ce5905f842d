//! What an acknowledgement says: the syndrome byte of AETH, and the two tables of five bits that it uses.
//!
//! Both tables go by the same steps: 1, 2, 3, 4, 6, 8, 12, 16, 24, ... so that each second step doubles.

use std::time::Duration;

/// Bits of a code.
const CODE_MASK: u8 = 0x1f;
/// The other three bits of the byte.
const KIND_ACK: u8 = 0x00;
const KIND_RNR_NAK: u8 = 0x20;
const KIND_NAK: u8 = 0x60;

/// The syndrome of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syndrome {
    /// All went well up to here; how many more messages have a receive.
    Ack(Credits),
    /// No receive was there: again after this time.
    RnrNak(RnrTimer),
    /// Refused.
    Nak(NakCode),
    /// A byte that means nothing.
    Reserved(u8),
}

impl Syndrome {
    /// Reads the byte.
    pub const fn from_byte(byte: u8) -> Syndrome {
        let code = byte & CODE_MASK;
        match byte & !CODE_MASK {
            KIND_ACK => Syndrome::Ack(Credits(code)),
            KIND_RNR_NAK => Syndrome::RnrNak(RnrTimer(code)),
            KIND_NAK => match NakCode::from_code(code) {
                Some(nak) => Syndrome::Nak(nak),
                None => Syndrome::Reserved(byte),
            },
            _ => Syndrome::Reserved(byte),
        }
    }

    /// The byte.
    pub const fn to_byte(self) -> u8 {
        match self {
            Syndrome::Ack(Credits(code)) => KIND_ACK | code,
            Syndrome::RnrNak(RnrTimer(code)) => KIND_RNR_NAK | code,
            Syndrome::Nak(nak) => KIND_NAK | nak as u8,
            Syndrome::Reserved(byte) => byte,
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NakCode {
    /// Packets are missing: send again from this number on.
    PsnSequence = 0,
    /// The request breaks a rule: opcode, order, length, or what the queue pair allows.
    InvalidRequest = 1,
    /// The key does not open this memory for this.
    RemoteAccess = 2,
    /// The responder could not do what it should.
    RemoteOperation = 3,
    /// Of the reliable datagram service; never sent here.
    InvalidRdRequest = 4,
}

impl NakCode {
    const fn from_code(code: u8) -> Option<NakCode> {
        Some(match code {
            0 => NakCode::PsnSequence,
            1 => NakCode::InvalidRequest,
            2 => NakCode::RemoteAccess,
            3 => NakCode::RemoteOperation,
            4 => NakCode::InvalidRdRequest,
            _ => return None,
        })
    }
}

/// End-to-end credits: how many messages that need a receive have one. Five bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credits(u8);

impl Credits {
    /// No count is kept: who sends too much hears RNR NAK. What responders with a shared receive queue say.
    pub const UNLIMITED: Credits = Credits(CODE_MASK);

    /// The largest step that does not exceed `count`.
    pub fn at_most(count: u32) -> Credits {
        let fits = (0..CODE_MASK).rev().find(|code| step(*code) <= count);
        Credits(fits.unwrap_or(0))
    }

    /// The number of messages, or none when there is no limit.
    pub const fn count(self) -> Option<u32> {
        if self.0 == CODE_MASK {
            None
        } else {
            Some(step(self.0))
        }
    }
}

/// How long a requester waits after RNR NAK. Five bits, 10 us to 655.36 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RnrTimer(u8);

impl RnrTimer {
    /// The timer with this code; only its low five bits count. Code 0 is the longest, 655.36 ms.
    pub const fn new(code: u8) -> RnrTimer {
        RnrTimer(code & CODE_MASK)
    }

    /// The code.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The time.
    pub const fn time(self) -> Duration {
        let steps = if self.0 == 0 { 1 << 16 } else { step(self.0) };
        Duration::from_micros(steps as u64 * 10)
    }
}

/// The number that both tables have for a code: 0, 1, then each second one doubles, with 1.5 times in between.
const fn step(code: u8) -> u32 {
    match code {
        0 | 1 => code as u32,
        _ if code.is_multiple_of(2) => 1 << (code / 2),
        _ => 3 << (code / 2 - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_comes_back() {
        for byte in 0..=255 {
            assert_eq!(Syndrome::from_byte(byte).to_byte(), byte);
        }
        assert_eq!(Syndrome::from_byte(0x1f), Syndrome::Ack(Credits::UNLIMITED));
        assert_eq!(Syndrome::from_byte(0x60), Syndrome::Nak(NakCode::PsnSequence));
        assert_eq!(Syndrome::from_byte(0x62), Syndrome::Nak(NakCode::RemoteAccess));
        assert_eq!(Syndrome::from_byte(0x65), Syndrome::Reserved(0x65));
        assert_eq!(Syndrome::from_byte(0x9f), Syndrome::Reserved(0x9f));
    }

    #[test]
    fn the_timers_are_those_of_the_table() {
        let ten_us: Vec<u128> = (0..32).map(|code| RnrTimer::new(code).time().as_micros() / 10).collect();
        let table = [
            65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536,
            2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
        ];
        assert_eq!(ten_us, table);
    }

    #[test]
    fn credits_are_rounded_down() {
        assert_eq!(Credits::at_most(0).count(), Some(0));
        assert_eq!(Credits::at_most(5).count(), Some(4));
        assert_eq!(Credits::at_most(12).count(), Some(12));
        assert_eq!(Credits::at_most(u32::MAX).count(), Some(32768));
        assert_eq!(Credits::UNLIMITED.count(), None);
    }
}
