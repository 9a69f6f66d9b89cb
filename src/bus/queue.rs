//! What waits to go through a line: frames put together into packets, a bounded number of bytes in all.
//! Pure: the descriptor that goes with a frame is whatever `A` is.

use std::collections::VecDeque;

use super::frame::{self, MAX_PACKET};

/// Frames are put together into packets of up to this size, unless one is larger by itself: a system
/// call for each side is shared by hundreds of small messages.
const PACKET: usize = 32 * 1024;
/// Emptied packets kept for their memory.
const SPARE: usize = 4;

/// Frames that wait, oldest first.
#[derive(Debug)]
pub(crate) struct Queue<A> {
    packets: VecDeque<Packet<A>>,
    spare: Vec<Vec<u8>>,
    /// Of all frames that wait.
    bytes: usize,
    /// How many of the packets have something attached.
    attached: usize,
    limit: usize,
}

/// Frames that go together.
#[derive(Debug)]
struct Packet<A> {
    /// Those before `start` have been dropped.
    bytes: Vec<u8>,
    start: usize,
    attached: Option<A>,
}

impl<A> Queue<A> {
    /// A queue that holds up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            packets: VecDeque::new(),
            spare: Vec::new(),
            bytes: 0,
            attached: 0,
            limit,
        }
    }

    /// The bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The frames that wait, counted one by one.
    pub(crate) fn frames(&self) -> usize {
        let packets = self.packets.iter();
        packets
            .map(|packet| frame::frames(&packet.bytes[packet.start..]).count())
            .sum()
    }

    /// The descriptors that wait.
    pub(crate) fn attached(&self) -> usize {
        self.attached
    }

    /// Does nothing wait?
    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Is there room for a frame of so many bytes?
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.bytes + bytes <= self.limit
    }

    /// Adds the frame that `write` appends to the buffer that it gets, whether there is room or not;
    /// see [`has_room`](Self::has_room) and [`drop_oldest`](Self::drop_oldest). `size` is what it will
    /// have at the most.
    pub(crate) fn push(
        &mut self,
        size: usize,
        attached: Option<A>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let fits =
            |packet: &Packet<A>| packet.attached.is_none() && packet.bytes.len() + size <= PACKET;
        // A frame with a descriptor has a packet of its own.
        if attached.is_some() || !self.packets.back().is_some_and(fits) {
            let bytes = self.spare.pop().unwrap_or_default();
            self.attached += usize::from(attached.is_some());
            self.packets.push_back(Packet {
                bytes,
                start: 0,
                attached,
            });
        }
        let packet = self.packets.back_mut().expect("there is one by now");
        let before = packet.bytes.len();
        write(&mut packet.bytes);
        let written = packet.bytes.len() - before;
        debug_assert!(written <= size && packet.bytes.len() <= MAX_PACKET);
        self.bytes += written;
    }

    /// Takes the oldest frame out and shows it to `lost`. False: there was none.
    pub(crate) fn drop_oldest(&mut self, lost: impl FnOnce(&frame::Frame<'_>, Option<A>)) -> bool {
        let Some(packet) = self.packets.front_mut() else {
            return false;
        };
        let oldest = frame::decode(&packet.bytes[packet.start..]).expect("we encoded it");
        let length = oldest.bytes.len();
        let attached = packet.attached.take();
        self.attached -= usize::from(attached.is_some());
        lost(&oldest, attached);
        packet.start += length;
        self.bytes -= length;
        if packet.start == packet.bytes.len() {
            self.discard();
        }
        true
    }

    /// The packet that goes next.
    pub(crate) fn front(&self) -> Option<(&[u8], Option<&A>)> {
        let packet = self.packets.front()?;
        Some((&packet.bytes[packet.start..], packet.attached.as_ref()))
    }

    /// The packet that [`front`](Self::front) showed has gone.
    pub(crate) fn pop(&mut self) {
        if let Some(packet) = self.packets.front() {
            self.bytes -= packet.bytes.len() - packet.start;
            self.attached -= usize::from(packet.attached.is_some());
            self.discard();
        }
    }

    fn discard(&mut self) {
        let packet = self.packets.pop_front().expect("the caller has looked");
        if self.spare.len() < SPARE && packet.bytes.capacity() <= 2 * PACKET {
            let mut bytes = packet.bytes;
            bytes.clear();
            self.spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::{
        Encoding, MasterId, To,
        frame::{Attached, Header, Kind, Space},
    };

    #[derive(Debug, Clone)]
    enum Step {
        Push { payload: usize, attached: bool },
        DropOldest,
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        let payload = prop_oneof![4 => 0usize..300, 1 => 0usize..frame::MAX_PAYLOAD];
        let push = (payload, prop::bool::weighted(0.1));
        prop_oneof![
            4 => push.prop_map(|(payload, attached)| Step::Push { payload, attached }),
            1 => Just(Step::DropOldest),
            1 => Just(Step::Pop),
        ]
    }

    fn encoded(id: u64, payload: usize) -> Vec<u8> {
        let header = Header {
            kind: Kind::Event,
            space: Space::Topic,
            encoding: Encoding::Raw,
            attached: Attached::Nothing,
            sequence: 0,
            from: MasterId(1).process(),
            id,
            deadline: 0,
        };
        let mut bytes = Vec::new();
        frame::encode(
            &header,
            &To::Subscribers,
            "a",
            &[],
            &vec![0; payload],
            &mut bytes,
        );
        bytes
    }

    proptest! {
        /// Against a list of frames.
        #[test]
        fn what_goes_in_comes_out_in_order(steps in prop::collection::vec(step(), 1..300)) {
            let limit = 1 << 18;
            let mut queue = Queue::new(limit);
            let mut model: VecDeque<(Vec<u8>, Option<u64>)> = VecDeque::new();
            for (id, step) in (1u64..).zip(steps) {
                match step {
                    Step::Push { payload, attached } => {
                        let frame = encoded(id, payload);
                        let waiting: usize = model.iter().map(|(bytes, _)| bytes.len()).sum();
                        let has_room = waiting + frame.len() <= limit;
                        prop_assert_eq!(queue.has_room(frame.len()), has_room);
                        if has_room {
                            let own = attached.then_some(id);
                            queue.push(frame.len(), own, |bytes| bytes.extend_from_slice(&frame));
                            model.push_back((frame, own));
                        }
                    }
                    Step::DropOldest => {
                        let expected = model.pop_front();
                        let mut lost = None;
                        let dropped = queue.drop_oldest(|frame, attached| {
                            lost = Some((frame.bytes.to_vec(), attached));
                        });
                        prop_assert_eq!(dropped, expected.is_some());
                        prop_assert_eq!(lost, expected);
                    }
                    Step::Pop => {
                        let Some((packet, attached)) = queue.front() else {
                            prop_assert!(model.is_empty());
                            continue;
                        };
                        prop_assert!(packet.len() <= MAX_PACKET);
                        let mut owned = attached.copied();
                        for frame in frame::frames(packet) {
                            let frame = frame.expect("whole");
                            let (bytes, own) = model.pop_front().expect("not more than went in");
                            prop_assert_eq!(frame.bytes, bytes);
                            prop_assert_eq!(owned.take(), own);
                        }
                        queue.pop();
                    }
                }
                let waiting: usize = model.iter().map(|(bytes, _)| bytes.len()).sum();
                prop_assert_eq!(queue.bytes(), waiting);
                prop_assert_eq!(queue.is_empty(), model.is_empty());
                let attached = model.iter().filter(|(_, own)| own.is_some()).count();
                prop_assert_eq!(queue.attached(), attached);
            }
        }
    }

    #[test]
    fn small_frames_share_packets_and_their_memory_is_used_again() {
        let mut queue: Queue<()> = Queue::new(1 << 20);
        for round in 0..3 {
            for _ in 0..1_000 {
                let frame = encoded(1, 100);
                queue.push(frame.len(), None, |bytes| bytes.extend_from_slice(&frame));
            }
            assert!(queue.packets.len() <= 1_000 * 151 / PACKET + 1);
            while queue.front().is_some() {
                queue.pop();
            }
            assert!(queue.spare.len() <= SPARE, "{round}");
        }
        assert_eq!(queue.spare.len(), SPARE);
    }
}
