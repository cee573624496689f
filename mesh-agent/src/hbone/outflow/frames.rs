//! Reads the few frames of HTTP/2 (RFC 9113 §4.1) that windows depend on out of a stream of
//! bytes, however it is cut into pieces. Everything else is passed over. It refuses nothing:
//! the HTTP/2 implementation that gets the same bytes does.

const HEAD: usize = 9;

const DATA: u8 = 0;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

/// `SETTINGS_INITIAL_WINDOW_SIZE` (RFC 9113 §6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Length of a setting, and the longest part of a payload that is looked at.
const SETTING: usize = 6;
const INCREMENT: usize = 4;

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A DATA frame; its length includes padding.
    Data {
        stream: u32,
        length: u32,
    },
    WindowUpdate {
        /// 0 for the connection's window.
        stream: u32,
        by: u32,
    },
    InitialWindow(u32),
}

/// Where in the stream of bytes the next one belongs.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Bytes that are no part of a frame.
    skip: usize,
    head: [u8; HEAD],
    head_has: usize,
    part: [u8; SETTING],
    part_has: usize,
}

impl Frames {
    /// Frames that come after `preface` other bytes.
    pub(super) fn after(preface: usize) -> Self {
        Self {
            skip: preface,
            ..Self::default()
        }
    }

    pub(super) fn scan(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Seen)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let step = self.skip.min(bytes.len());
                self.skip -= step;
                bytes = &bytes[step..];
            } else if self.head_has < HEAD {
                let step = fill(&mut self.head, &mut self.head_has, bytes);
                bytes = &bytes[step..];
                if self.head_has == HEAD {
                    self.begin(&mut seen);
                }
            } else {
                bytes = self.payload(bytes, &mut seen);
            }
        }
    }

    /// A head is complete. Passes over its payload unless that is looked at.
    fn begin(&mut self, seen: &mut impl FnMut(Seen)) {
        let length = self.length();
        match self.head[3] {
            DATA => seen(Seen::Data {
                stream: number(&self.head[5..]),
                length: u32::try_from(length).unwrap_or(u32::MAX),
            }),
            SETTINGS if length > 0 && length.is_multiple_of(SETTING) => return,
            WINDOW_UPDATE if length == INCREMENT => return,
            _ => {}
        }
        self.skip = length;
        self.head_has = 0;
    }

    /// Reads on in a payload that is looked at.
    fn payload<'a>(&mut self, bytes: &'a [u8], seen: &mut impl FnMut(Seen)) -> &'a [u8] {
        let is_update = self.head[3] == WINDOW_UPDATE;
        let wanted = if is_update { INCREMENT } else { SETTING };
        let step = fill(&mut self.part[..wanted], &mut self.part_has, bytes);
        if self.part_has == wanted {
            self.part_has = 0;
            let [a, b, c, d, e, f] = self.part;
            if is_update {
                let stream = number(&self.head[5..]);
                let by = u32::from_be_bytes([a, b, c, d]) & !(1 << 31);
                seen(Seen::WindowUpdate { stream, by });
            } else if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE {
                seen(Seen::InitialWindow(u32::from_be_bytes([c, d, e, f])));
            }
            let left = self.length() - wanted;
            self.head[..3].copy_from_slice(&(left as u32).to_be_bytes()[1..]);
            if left == 0 {
                self.head_has = 0;
            }
        }
        &bytes[step..]
    }

    /// What is left of the payload.
    fn length(&self) -> usize {
        let [a, b, c] = [self.head[0], self.head[1], self.head[2]];
        u32::from_be_bytes([0, a, b, c]) as usize
    }
}

fn number(four: &[u8]) -> u32 {
    let number = four.iter().fold(0, |n, byte| n << 8 | u32::from(*byte));
    number & !(1 << 31)
}

/// Moves bytes into a buffer that has some already; says how many.
fn fill(buffer: &mut [u8], has: &mut usize, bytes: &[u8]) -> usize {
    let step = (buffer.len() - *has).min(bytes.len());
    buffer[*has..*has + step].copy_from_slice(&bytes[..step]);
    *has += step;
    step
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, 0]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn seen(frames: &mut Frames, pieces: &[&[u8]]) -> Vec<Seen> {
        let mut all = Vec::new();
        for piece in pieces {
            frames.scan(piece, |one| all.push(one));
        }
        all
    }

    #[test]
    fn frames_are_read_however_the_bytes_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let preface = bytes.len();
        bytes.extend(frame(SETTINGS, 0, &[0, 3, 0, 0, 0, 9, 0, 4, 0, 0x40, 0, 0]));
        bytes.extend(frame(SETTINGS, 0, &[]));
        bytes.extend(frame(1, 1, &[0; 40]));
        bytes.extend(frame(WINDOW_UPDATE, 0, &[0x80, 0, 1, 0]));
        bytes.extend(frame(DATA, 1, &[8; 300]));
        bytes.extend(frame(DATA, 1, &[]));
        // One that is malformed, which is for others to refuse.
        bytes.extend(frame(WINDOW_UPDATE, 1, &[1; 5]));
        bytes.extend(frame(WINDOW_UPDATE, 1 << 31 | 3, &[0, 0, 0, 7]));
        let expected = [
            Seen::InitialWindow(0x40_0000),
            Seen::WindowUpdate { stream: 0, by: 256 },
            Seen::Data {
                stream: 1,
                length: 300,
            },
            Seen::Data {
                stream: 1,
                length: 0,
            },
            Seen::WindowUpdate { stream: 3, by: 7 },
        ];
        for at in 0..=bytes.len() {
            let (first, second) = bytes.split_at(at);
            let found = seen(&mut Frames::after(preface), &[first, second]);
            assert_eq!(found, expected, "cut at {at}");
        }
        let singly: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(seen(&mut Frames::after(preface), &singly), expected);
    }

    #[test]
    fn frames_of_arbitrary_bytes_do_not_panic() {
        let mut state = 1_u64;
        let mut frames = Frames::after(0);
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    // Small lengths and known types, mostly.
                    (state >> 60) as u8
                })
                .collect();
            frames.scan(&bytes, |_| {});
        }
    }
}
