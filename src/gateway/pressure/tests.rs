//! Pressure: what many sockets take is counted and given back, whatever they do.

use proptest::prelude::{any, prop};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;

const MOST: usize = 16_384;

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Takes as many as there is room for.
fn fill(share: &mut Share) -> usize {
    let before = share.in_flight;
    while share.room(MOST).is_ok() {
        share.take();
    }
    share.in_flight - before
}

#[test]
fn who_finds_no_place_is_told_when_to_come_again() {
    let pressure = Arc::default();
    let (mut one, mut other) = (Share::of(&pressure), Share::of(&pressure));
    assert_eq!(fill(&mut one), PLACES_MIN);
    assert_eq!(other.room(MOST), Ok(()), "one message is always taken");
    assert_eq!(one.room(PLACES_MIN + 1), Err(WAIT_MIN), "but to who has many");
    assert_eq!(other.room(PLACES_MIN), Err(WAIT_MIN), "but for more than the node may have");
    other.take();
    assert_eq!(other.room(MOST), Err(WAIT_MIN), "all sockets share the places");
    one.give_back();
    one.give_back();
    assert_eq!(other.room(MOST), Ok(()));
}

#[test]
fn places_follow_what_is_answered_in_a_second_up_to_the_limit() {
    let pressure = Arc::default();
    let mut share = Share::of(&pressure);
    for second in 1..=3 {
        for _ in 0..9_000 {
            share.take();
            share.give_back();
            share.answered(at(second * 1_000));
        }
    }
    assert!((8_990..=9_001).contains(&fill(&mut share)), "{}", share.in_flight);
    drop(share);
    assert_eq!(pressure.places(5_000), 4_375);
    let mut share = Share::of(&pressure);
    // Nothing is asked for some seconds, but now and then.
    for second in 4..=20 {
        share.take();
        share.give_back();
        share.answered(at(second * 1_000));
    }
    assert_eq!(fill(&mut share), PLACES_MIN, "what was long ago does not count");
}

#[test]
fn the_more_wait_the_later_they_come_again() {
    let pressure = Arc::default();
    let (mut one, mut other) = (Share::of(&pressure), Share::of(&pressure));
    fill(&mut one);
    other.take();
    one.without_place(PLACES_MIN);
    assert_eq!(other.room(MOST), Err(WAIT_MIN + Duration::from_secs(1)));
    other.without_place(PLACES_MIN * 1_000);
    assert_eq!(other.room(MOST), Err(WAIT_MAX));
    other.without_place(0);
    drop((one, other));
    assert_eq!(pressure.wait(), WAIT_MIN);
    assert_eq!(pressure.in_flight.load(Ordering::Relaxed), 0, "all is given back");
}

/// What a socket has on its way, and waiting for a place.
#[derive(Debug, Clone, Copy, Default)]
struct Has {
    in_flight: usize,
    waiting: usize,
}

/// Sockets, and beside them what each must have.
struct World {
    pressure: Arc<Pressure>,
    most: usize,
    now: Duration,
    sockets: Vec<(Share, Has)>,
}

impl World {
    fn has(&self) -> Has {
        let has = self.sockets.iter().map(|(_, has)| has);
        let sum = |all: Has, one: &Has| Has {
            in_flight: all.in_flight + one.in_flight,
            waiting: all.waiting + one.waiting,
        };
        has.fold(Has::default(), sum)
    }

    fn step(&mut self, what: u8, who: usize, count: usize) {
        let all = self.has();
        let who = who % self.sockets.len();
        let (share, has) = &mut self.sockets[who];
        match what % 8 {
            // Sends many at once; what finds no place waits.
            0..=3 => {
                let mut refused = 0;
                for _ in 0..count {
                    match share.room(self.most) {
                        Ok(()) => {
                            share.take();
                            has.in_flight += 1;
                        }
                        Err(wait) => {
                            assert!((WAIT_MIN..=WAIT_MAX).contains(&wait), "{wait:?}");
                            refused += 1;
                        }
                    }
                }
                let room = self.most.saturating_sub(all.in_flight);
                assert!(count - refused <= room, "{count} {refused} {room}");
                assert!(room == 0 || count == 0 || has.in_flight > 0, "one is always taken");
                has.waiting = refused;
                share.without_place(refused);
            }
            4 | 5 => {
                for _ in 0..count.min(has.in_flight) {
                    share.give_back();
                    has.in_flight -= 1;
                    if what % 8 == 4 {
                        share.answered(self.now);
                    }
                }
            }
            6 => {
                has.waiting = count % 7 * has.waiting / 7;
                share.without_place(has.waiting);
            }
            _ => self.sockets[who] = (Share::of(&self.pressure), Has::default()),
        }
    }
}

proptest! {
    #[test]
    fn whatever_many_sockets_do_all_is_counted_and_given_back(
        most in prop::sample::select(vec![1_usize, 7, 300, PLACES_MIN, 5_000, 16_384]),
        steps in prop::collection::vec((any::<u8>(), any::<usize>(), 0_usize..1_500), 0..200),
    ) {
        let pressure = Arc::default();
        let sockets = (0..9).map(|_| (Share::of(&pressure), Has::default())).collect();
        let mut world =
            World { pressure: Arc::clone(&pressure), most, now: Duration::ZERO, sockets };
        for (what, who, count) in steps {
            world.now += at(count as u64);
            world.step(what, who, count);
            let (has, figures) = (world.has(), pressure.figures());
            prop_assert_eq!((figures.in_flight, figures.without_place), (has.in_flight, has.waiting));
            prop_assert!(has.in_flight <= most, "{} of {}", has.in_flight, most);
            prop_assert!((WAIT_MIN..=WAIT_MAX).contains(&pressure.wait()));
            prop_assert!(pressure.places(most) <= most);
        }
        world.sockets.clear();
        let figures = pressure.figures();
        prop_assert_eq!((figures.in_flight, figures.without_place), (0, 0));
    }
}
