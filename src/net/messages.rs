//! The messages of a WebSocket's caller, put together so that one can be changed on its way (RFC 6455, section 5). PURE.
//!
//! Only where one may have to be changed; elsewhere frames pass as they come. A message is held until it is whole and
//! goes on as one frame, under the mask that the caller gave its last piece. Control frames pass at once: they may stand
//! between the pieces of a message.

use bytes::Bytes;

use super::frames::{LONGEST_HEAD, Seen, is_control};

const LAST: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What is done with whole messages.
pub(crate) trait Edit {
    /// Whether there is room for so many `more` bytes of the message that is coming, which make it so long. Without it
    /// the socket ends.
    fn has_room(&mut self, more: usize, length: usize) -> bool;

    /// A message is whole: gives what goes on in its place.
    fn edit(&mut self, message: Bytes) -> [Bytes; 3];

    /// Of what had room, so many bytes are written.
    fn sent(&mut self, bytes: usize);
}

/// One direction whose messages may be changed.
pub(crate) struct Editor {
    by: Box<dyn Edit>,
    /// First byte of the message's first frame: its kind.
    first: u8,
    mask: Option<[u8; 4]>,
    /// So many bytes of the present frame are unmasked.
    unmasked: usize,
    message: Vec<u8>,
    /// So many bytes of whole messages were put out and are not known to be written.
    leaving: usize,
    full: bool,
}

impl Editor {
    pub(crate) fn new(by: Box<dyn Edit>) -> Self {
        Self { by, first: 0, mask: None, unmasked: 0, message: Vec::new(), leaving: 0, full: false }
    }

    /// Whether a message has outgrown its room: nothing more can pass.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// All that was put out is written.
    pub(crate) fn written(&mut self) {
        self.by.sent(std::mem::take(&mut self.leaving));
    }

    /// What was seen of the caller's frames; what goes on is put at the end of `out`.
    pub(crate) fn take(&mut self, seen: Seen<'_>, out: &mut Vec<u8>) {
        match seen {
            Seen::Head(head) if is_control(head) => out.extend_from_slice(head),
            Seen::Head(head) => self.begin(head),
            Seen::Control(payload) => out.extend_from_slice(payload),
            Seen::Payload(payload) => {
                let start = self.message.len();
                self.full = self.full || !self.by.has_room(payload.len(), start + payload.len());
                if self.full {
                    // Nothing of it goes on; what was held need not wait for the end of the socket.
                    self.by.sent(std::mem::take(&mut self.message).len());
                } else {
                    self.message.extend_from_slice(payload);
                    turn(&mut self.message[start..], self.mask, self.unmasked);
                    self.unmasked += payload.len();
                }
            }
            Seen::MessageEnd if !self.full => {
                self.leaving += self.message.len();
                let message = std::mem::take(&mut self.message);
                let pieces = self.by.edit(message.into());
                self.write(&pieces, out);
            }
            Seen::MessageEnd => {}
        }
    }

    fn begin(&mut self, head: &[u8]) {
        // A continuation has the kind 0.
        if head[0] & 0x0f != 0 {
            self.first = head[0];
        }
        self.mask = head.last_chunk().filter(|_| head[1] & MASKED != 0).copied();
        self.unmasked = 0;
    }

    fn write(&self, pieces: &[Bytes], out: &mut Vec<u8>) {
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        let length = pieces.iter().map(Bytes::len).sum::<usize>();
        out.reserve(LONGEST_HEAD + length);
        out.push(self.first | LAST);
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short @ 0..=125), _) => out.push(masked | short),
            (_, Ok(middle)) => {
                out.push(masked | 126);
                out.extend(middle.to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(self.mask.into_iter().flatten());
        let start = out.len();
        for piece in pieces {
            out.extend_from_slice(piece);
        }
        turn(&mut out[start..], self.mask, 0);
    }
}

/// Masks, or takes the mask away, from the `from`th byte of a frame on.
fn turn(bytes: &mut [u8], mask: Option<[u8; 4]>, from: usize) {
    let Some(mask) = mask else { return };
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(from + at) % 4];
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    use super::super::frames::Frames;
    use super::{Edit, Editor};

    /// Puts a letter in front, and has room for so many bytes.
    struct Marking(usize);

    impl Edit for Marking {
        fn has_room(&mut self, more: usize, _length: usize) -> bool {
            self.0.checked_sub(more).map(|left| self.0 = left).is_some()
        }

        fn edit(&mut self, message: Bytes) -> [Bytes; 3] {
            [Bytes::from_static(b"!"), message, Bytes::new()]
        }

        fn sent(&mut self, bytes: usize) {
            self.0 += bytes;
        }
    }

    /// Written by another hand than ours.
    fn frame(opcode: OpCode, last: bool, payload: &[u8]) -> Vec<u8> {
        let mask = Some([7, 0, 255, 3]);
        let header = FrameHeader { is_final: last, opcode, mask, ..FrameHeader::default() };
        let mut bytes = Vec::new();
        Frame::from_payload(header, payload.to_vec().into()).format(&mut bytes).unwrap();
        bytes
    }

    fn pass(bytes: &[u8], pieces: usize, room: usize) -> (Vec<u8>, bool) {
        let (mut frames, mut editor) = (Frames::default(), Editor::new(Box::new(Marking(room))));
        let mut out = Vec::new();
        for piece in bytes.chunks(pieces) {
            editor.written();
            frames.pass(piece, |seen| editor.take(seen, &mut out));
        }
        (out, editor.is_full())
    }

    #[test]
    fn the_pieces_of_a_message_become_one_frame_and_a_ping_among_them_passes_first() {
        let text = OpCode::Data(Data::Text);
        let mut bytes = frame(text, false, b"hel");
        bytes.extend(frame(OpCode::Control(Control::Ping), true, b"ping"));
        bytes.extend(frame(OpCode::Data(Data::Continue), true, b"lo"));
        bytes.extend(frame(text, true, b""));
        bytes.extend(frame(OpCode::Control(Control::Close), true, b"\x03\xe8"));
        let mut expected = frame(OpCode::Control(Control::Ping), true, b"ping");
        expected.extend(frame(text, true, b"!hello"));
        expected.extend(frame(text, true, b"!"));
        expected.extend(frame(OpCode::Control(Control::Close), true, b"\x03\xe8"));
        for pieces in [1, 2, 5, 1000] {
            assert_eq!(pass(&bytes, pieces, 1000), (expected.clone(), false), "{pieces}");
        }
    }

    #[test]
    fn a_message_that_outgrows_its_room_does_not_pass() {
        let bytes = frame(OpCode::Data(Data::Text), true, &[b'a'; 100]);
        assert_eq!(pass(&bytes, 30, 50), (Vec::new(), true));
    }

    #[test]
    fn what_is_written_gives_its_room_back_though_the_next_message_has_begun() {
        let message = frame(OpCode::Data(Data::Text), true, &[b'a'; 100]);
        let expected = frame(OpCode::Data(Data::Text), true, &[&b"!"[..], &[b'a'; 100]].concat());
        // Of 106 bytes each, so that no message ends where a piece does.
        assert_eq!(pass(&message.repeat(20), 50, 200), (expected.repeat(20), false));
    }

    proptest! {
        #[test]
        fn messages_of_any_length_keep_what_they_say(
            length in prop_oneof![0_usize..4, 120..130_usize, 65_530..65_540_usize],
            pieces in 1_usize..70_000,
        ) {
            let payload: Vec<u8> = (0..=250_u8).cycle().take(length).collect();
            let binary = OpCode::Data(Data::Binary);
            let expected = frame(binary, true, &[b"!", &payload[..]].concat());
            prop_assert_eq!(pass(&frame(binary, true, &payload), pieces, 1 << 20), (expected, false));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, pieces in 1_usize..40) {
            pass(&bytes, pieces, 100);
        }
    }
}
