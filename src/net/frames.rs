//! The frames of a WebSocket as they pass (RFC 6455, section 5.2): where one ends and the next begins. PURE.
//!
//! Nothing is unmasked, put together or changed. It is enough to know where a frame of our own may stand, when a
//! message is whole, and with which code a side closes.

/// Close code of whoever goes away: a server that stops (RFC 6455, section 7.4.1).
pub(crate) const GOING_AWAY: u16 = 1001;
/// Of whoever got a message that is too big for it.
pub(crate) const TOO_BIG: u16 = 1009;

const CLOSE: u8 = 8;
const FIRST_CONTROL: u8 = 8;

/// A head is at most so long: two bytes, eight of length, four of mask.
pub(crate) const LONGEST_HEAD: usize = 14;

/// One direction of a WebSocket.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; LONGEST_HEAD],
    /// So much of the head is here.
    got: usize,
    /// Bytes of payload that are still to come.
    left: u64,
    /// Whether the present frame is the last one of a message, and no control frame.
    ends_message: bool,
    /// A message has begun whose last frame has not come.
    inside_message: bool,
    closed: bool,
}

/// What is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Seen<'a> {
    /// A frame begins: its whole head.
    Head(&'a [u8]),
    /// A piece of a control frame.
    Control(&'a [u8]),
    /// A piece of a message; masked if it is a caller's.
    Payload(&'a [u8]),
    /// The message is whole.
    MessageEnd,
}

impl Frames {
    /// Looks at the next bytes of this direction.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], mut see: impl FnMut(Seen<'_>)) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let here = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let (payload, rest) = bytes.split_at(here);
                see(if is_control(&self.head) { Seen::Control(payload) } else { Seen::Payload(payload) });
                self.left -= here as u64;
                bytes = rest;
                if self.left > 0 {
                    return;
                }
                self.end_frame(&mut see);
                continue;
            }
            self.head[self.got] = bytes[0];
            self.got += 1;
            bytes = &bytes[1..];
            if self.got == self.head_length() {
                self.begin_frame();
                see(Seen::Head(&self.head[..self.got]));
                if self.left == 0 {
                    self.end_frame(&mut see);
                }
            }
        }
    }

    /// Whether a frame of our own may stand here.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.got == 0
    }

    /// Whether a control frame has begun, its head whole, and not ended.
    pub(crate) fn is_inside_control(&self) -> bool {
        self.left > 0 && is_control(&self.head)
    }

    /// Whether no message is half sent.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.got == 0 && !self.inside_message
    }

    /// Whether a close frame has passed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// As far as its first two bytes tell; two until they are here.
    fn head_length(&self) -> usize {
        if self.got < 2 {
            return 2;
        }
        let length = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + length + if self.head[1] & 0x80 == 0 { 0 } else { 4 }
    }

    fn begin_frame(&mut self) {
        let wide = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
        self.left = match self.head[1] & 0x7f {
            126 => wide(&self.head[2..4]),
            127 => wide(&self.head[2..10]),
            short => u64::from(short),
        };
        if !is_control(&self.head) {
            self.ends_message = self.head[0] & 0x80 != 0;
            self.inside_message = true;
        }
    }

    fn end_frame(&mut self, see: &mut impl FnMut(Seen<'_>)) {
        if self.head[0] & 0x0f == CLOSE {
            self.closed = true;
        } else if !is_control(&self.head) && self.ends_message {
            self.inside_message = false;
            see(Seen::MessageEnd);
        }
        self.got = 0;
    }
}

/// Whether the frame of this head is one of control: ping, pong, close.
pub(crate) fn is_control(head: &[u8]) -> bool {
    head.first().is_some_and(|first| first & 0x0f >= FIRST_CONTROL)
}

/// A close frame of our own. A caller's frames are masked: a mask of zeros leaves them readable, and
/// what it hides from is a cache on the way that takes them for HTTP (RFC 6455, section 10.3), which two fixed bytes
/// cannot be mistaken for.
pub(crate) fn close(code: u16, masked: bool) -> Vec<u8> {
    let code = code.to_be_bytes();
    if masked { vec![0x88, 0x82, 0, 0, 0, 0, code[0], code[1]] } else { vec![0x88, 0x02, code[0], code[1]] }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Frames, GOING_AWAY, Seen, close};

    /// One frame, unmasked or with a mask of zeros.
    fn frame(opcode: u8, last: bool, masked: bool, payload: &[u8]) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![opcode | if last { 0x80 } else { 0 }];
        match payload.len() {
            short @ 0..126 => frame.push(mask | u8::try_from(short).unwrap()),
            middle @ 126..65_536 => {
                frame.push(mask | 126);
                frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
            }
            long => {
                frame.push(mask | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        if masked {
            frame.extend([0; 4]);
        }
        frame.extend(payload);
        frame
    }

    /// The messages, put together from passing bytes in pieces of such a size.
    fn messages(frames: &mut Frames, bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let (mut whole, mut open) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            frames.pass(piece, |seen| match seen {
                Seen::Payload(bytes) => open.extend_from_slice(bytes),
                Seen::MessageEnd => whole.push(std::mem::take(&mut open)),
                Seen::Head(_) | Seen::Control(_) => {}
            });
        }
        whole
    }

    #[test]
    fn a_ping_between_the_pieces_of_a_message_is_none_of_it() {
        let mut bytes = frame(1, false, true, b"hel");
        bytes.extend(frame(9, true, true, b"ping"));
        bytes.extend(frame(0, true, true, b"lo"));
        let mut frames = Frames::default();
        assert_eq!(messages(&mut frames, &bytes, 1), [b"hello"]);
        assert!(frames.is_between_messages() && !frames.is_closed());
    }

    #[test]
    fn between_two_frames_of_one_message_a_frame_may_stand_but_no_message_ends() {
        let mut frames = Frames::default();
        frames.pass(&frame(1, false, false, b"half"), |_| {});
        assert!(frames.is_between_frames() && !frames.is_between_messages());
        frames.pass(&frame(0, true, false, b"")[..1], |_| {});
        assert!(!frames.is_between_frames());
    }

    #[test]
    fn our_own_close_frames_are_close_frames() {
        for masked in [false, true] {
            let mut frames = Frames::default();
            frames.pass(&close(GOING_AWAY, masked), |seen| {
                assert!(matches!(seen, Seen::Head(_) | Seen::Control(_)), "no message");
            });
            assert!(frames.is_closed() && frames.is_between_frames());
        }
    }

    proptest! {
        #[test]
        fn messages_of_any_size_are_found_whatever_the_pieces(
            sizes in proptest::collection::vec(prop_oneof![0_usize..4, 120..130_usize, 65_530..65_540_usize], 1..5),
            masked: bool,
            piece in 1_usize..70_000,
        ) {
            let payloads: Vec<Vec<u8>> = sizes.iter().map(|size| vec![7; *size]).collect();
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| frame(2, true, masked, payload)).collect();
            let mut frames = Frames::default();
            prop_assert_eq!(messages(&mut frames, &bytes, piece), payloads);
            prop_assert!(frames.is_between_messages());
        }

        #[test]
        fn no_bytes_confuse_it_into_a_panic(bytes: Vec<u8>, piece in 1_usize..40) {
            messages(&mut Frames::default(), &bytes, piece);
        }
    }
}
