//! How the services of simulated members behave: a deterministic function of what they hear, so
//! that the model can do the same over the committed log alone. What the world answers them (is
//! there room? is it armed?) is worked out twice: by the core, and by the model in a way of its
//! own.

use std::collections::VecDeque;

use super::ghost::mix;
use super::member::MESSAGE_MAX;

/// How many services each member runs.
pub const SERVICES: usize = 3;
/// The lent memory of one service, in bytes: a quarter for timers, the rest for messages. Small, so
/// that both are full now and then.
pub const SHARE: usize = 512;
/// How many of its last digests a service remembers: the bulk of its snapshot.
const RECENT: usize = 700;
/// How much a service saves up to do at most.
const ENERGY: u32 = 48;

/// Where every history starts.
pub const DIGEST_ZERO: u64 = 0x00c0_7ac1_e000;

/// One callback.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// Which: a letter each.
    pub kind: u8,
    /// The end of the record.
    pub position: u64,
    /// The cluster's time.
    pub time: i64,
    /// Session, term, correlation or service.
    pub number: u64,
    /// Reason, leader or deadline.
    pub extra: i64,
    /// The message.
    pub bytes: &'a [u8],
}

/// What the world answers a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are those of the core's answers")]
pub enum Answer {
    Done = 1,
    WasArmed,
    WasNotArmed,
    Full,
    TooLong,
    UnknownSession,
    OutsideLog,
}

/// The world as a service sees it in a callback.
pub trait Ground {
    /// The open sessions, by ascending id.
    fn sessions(&self) -> Vec<u64>;
    /// Arms a timer.
    fn arm(&mut self, correlation: i64, deadline: i64) -> Answer;
    /// Takes a timer out.
    fn cancel(&mut self, correlation: i64) -> Answer;
    /// Offers a message into the log.
    fn say(&mut self, bytes: &[u8]) -> Answer;
    /// Closes a session.
    fn close(&mut self, session: u64) -> Answer;
}

/// A service's whole state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mind {
    /// Whether it does anything of its own accord; else only what a story's client tells it.
    acts: bool,
    number: usize,
    /// A hash of everything heard and answered.
    pub digest: u64,
    energy: u32,
    recent: VecDeque<u64>,
}

/// What a story's client tells a service. Shorter than any message with a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    /// Whom.
    pub service: u8,
    /// `a`rm, `c`ancel or `s`ay.
    pub what: u8,
    /// The timer's correlation, or the message.
    pub number: u8,
    /// The timer's time from now.
    pub ms: u16,
}

impl Order {
    /// The message.
    pub fn message(self) -> Vec<u8> {
        let [low, high] = self.ms.to_le_bytes();
        vec![b'!', self.service, self.what, self.number, low, high]
    }

    fn read(message: &[u8]) -> Option<Self> {
        match message {
            [b'!', service, what, number, low, high] => Some(Self {
                service: *service,
                what: *what,
                number: *number,
                ms: u16::from_le_bytes([*low, *high]),
            }),
            _ => None,
        }
    }
}

/// Numbers that follow from one.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = (self.0 ^ self.0 >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.0 = (self.0 ^ self.0 >> 32).wrapping_mul(0x94d0_49bb_1331_11eb);
        (self.0 >> 11) % bound
    }
}

impl Mind {
    /// Of service `number`, before the first record.
    pub fn new(number: usize, acts: bool) -> Self {
        Self {
            acts,
            number,
            digest: DIGEST_ZERO + number as u64,
            energy: 0,
            recent: VecDeque::new(),
        }
    }

    /// One callback: notes it, and does something or nothing.
    pub fn hear(&mut self, heard: &Heard<'_>, ground: &mut impl Ground) {
        let numbers = [
            u64::from(heard.kind),
            heard.position,
            heard.time as u64,
            heard.number,
            heard.extra as u64,
        ];
        self.note(&numbers);
        self.digest = mix(self.digest, heard.bytes);
        let mut draw = Draw(self.digest);
        // Only clients give them something to do: so they come to rest when clients do.
        if self.acts && heard.kind == b'm' && draw.below(4) == 0 {
            self.energy = (self.energy + 1).min(ENERGY);
        }
        if !self.acts && heard.kind == b'm' {
            self.obey(heard, ground);
        }
        for _ in 0..2 {
            if self.energy > 0 {
                self.act(heard.time, &mut draw, ground);
            }
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(self.digest);
    }

    fn obey(&mut self, heard: &Heard<'_>, ground: &mut impl Ground) {
        let Some(order) = Order::read(heard.bytes) else {
            return;
        };
        if usize::from(order.service) == self.number {
            let correlation = order.number.into();
            let answer = match order.what {
                b'a' => ground.arm(correlation, heard.time + i64::from(order.ms)),
                b'c' => ground.cancel(correlation),
                _ => ground.say(&[order.number]),
            };
            self.note(&[answer as u64]);
        }
    }

    fn note(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.digest = mix(self.digest, &number.to_le_bytes());
        }
    }

    fn act(&mut self, time: i64, draw: &mut Draw, ground: &mut impl Ground) {
        let what = draw.below(20);
        let answer = match what {
            0..4 => {
                let (correlation, deadline) = (draw.below(7) as i64, deadline(time, draw));
                ground.arm(correlation, deadline)
            }
            4 => ground.cancel(draw.below(7) as i64),
            5..8 => ground.say(&words(draw)),
            8 => {
                let open = ground.sessions();
                let sum = open.iter().fold(0, |sum, id| mix(sum, &id.to_le_bytes()));
                self.note(&[open.len() as u64, sum]);
                match open.get(draw.below(8) as usize) {
                    Some(session) if draw.below(16) == 0 => ground.close(*session),
                    None if draw.below(4) == 0 => ground.close(draw.below(1 << 20) * 32),
                    _ => Answer::Done,
                }
            }
            _ => return,
        };
        self.energy -= 1;
        self.note(&[what, answer as u64]);
    }

    /// What a snapshot holds.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = [self.digest, u64::from(self.energy)];
        let all = numbers.iter().chain(&self.recent);
        all.flat_map(|number| number.to_le_bytes()).collect()
    }

    /// The same service, from what a snapshot holds.
    pub fn restored(&self, bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut numbers = words.iter().map(|word| u64::from_le_bytes(*word));
        let (digest, energy) = (numbers.next()?, numbers.next()?);
        let recent: VecDeque<u64> = numbers.collect();
        let sound = rest.is_empty() && energy <= u64::from(ENERGY) && recent.len() <= RECENT;
        sound.then_some(Self {
            acts: self.acts,
            number: self.number,
            digest,
            energy: energy as u32,
            recent,
        })
    }
}

/// Mostly soon, sometimes past already, seldom never.
fn deadline(time: i64, draw: &mut Draw) -> i64 {
    match draw.below(32) {
        0 => i64::MAX,
        1 => i64::MIN,
        2..5 => time - draw.below(200) as i64,
        5..9 => time + draw.below(60_000) as i64,
        9..16 => time + draw.below(3_000) as i64,
        _ => time + draw.below(100) as i64,
    }
}

fn words(draw: &mut Draw) -> Vec<u8> {
    let len = match draw.below(64) {
        0 => MESSAGE_MAX as u64 + 1,
        1..8 => draw.below(SHARE as u64),
        _ => draw.below(60),
    };
    (0..len).map(|_| draw.below(256) as u8).collect()
}
