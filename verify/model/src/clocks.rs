//! A third, small model: three clocks, of which one at a time may be wrong, and servers that can't be reached. Does any sale
//! open or end early? The decisions are those of `seckill_planner::clocks`.
use seckill_planner::Clocks;
use stateright::{Model, Property};

pub const NOT_EARLY: &str = "I8 no unit is sold before the start, once the operator has seen the clocks";
pub const NOT_ENDED_EARLY: &str = "I15 no sale is closed before its end";
pub const ON_TIME: &str = "while no clock was wrong, an index opens without the operator";

const HOUR_MS: u64 = 3_600_000;
/// Hours of true time. An index is installed from `PREHEAT` on.
const PREHEAT: u64 = 11;
const START: u64 = 12;
const END: u64 = 14;
const LAST: u64 = 16;

/// A rule that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockRule {
    /// Two clocks close a sale, never one.
    TwoClocksClose,
    /// A clock that can't be read has no vote.
    SilentHasNoVote,
    /// A clock of Redis that is ahead does not open the index.
    HoldOpening,
}

#[derive(Default)]
pub struct SaleClocks {
    pub broken: Option<ClockRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WhoseClock {
    Operator,
    Redis,
    Mysql,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Row {
    Open,
    Suspended,
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClocksState {
    /// True time.
    hour: u64,
    /// The wrong clock, and by how many hours.
    wrong: Option<(WhoseClock, i64)>,
    ever_wrong: bool,
    redis_answers: bool,
    mysql_answers: bool,
    row: Row,
    /// The state in the terms of the installed index.
    index: Option<Row>,
    /// The operator has reached Redis since a clock changed.
    seen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClocksAction {
    HourPasses,
    ClockIsSet(Option<(WhoseClock, i64)>),
    RedisAnswers(bool),
    MysqlAnswers(bool),
    Reconcile,
}

impl ClocksState {
    fn shows(&self, whose: WhoseClock) -> u64 {
        let by = self.wrong.filter(|(wrong, _)| *wrong == whose).map_or(0, |(_, by)| by);
        self.hour.saturating_add_signed(by) * HOUR_MS
    }

    /// Redis sells by its own clock to every client that reaches it.
    fn sells(&self) -> bool {
        let redis = self.shows(WhoseClock::Redis);
        self.index == Some(Row::Open) && (START * HOUR_MS..END * HOUR_MS).contains(&redis)
    }
}

impl SaleClocks {
    fn breaks(&self, rule: ClockRule) -> bool {
        self.broken == Some(rule)
    }

    fn read(&self, state: &ClocksState) -> Clocks {
        let operator = state.shows(WhoseClock::Operator);
        let silent = self.breaks(ClockRule::SilentHasNoVote).then_some(u64::MAX);
        let read = |answers, whose| if answers { Some(state.shows(whose)) } else { silent };
        let (redis, mysql) = (
            read(state.redis_answers, WhoseClock::Redis),
            read(state.mysql_answers, WhoseClock::Mysql),
        );
        if self.breaks(ClockRule::TwoClocksClose) {
            let latest = redis.into_iter().chain(mysql).fold(operator, u64::max);
            return Clocks::all_at(latest);
        }
        Clocks { operator, redis, mysql }
    }

    /// Like `plan`: the end first, then the terms, then the index.
    fn reconcile(&self, state: &mut ClocksState) {
        let clocks = self.read(state);
        if state.row == Row::Closed || clocks.have_reached(END * HOUR_MS) {
            state.row = Row::Closed;
        } else if clocks.now() >= PREHEAT * HOUR_MS || state.index.is_some() {
            let held = clocks.hold_opening(START * HOUR_MS, state.row == Row::Suspended);
            state.row = match held && !self.breaks(ClockRule::HoldOpening) {
                true => Row::Suspended,
                false => Row::Open,
            };
        } else {
            return;
        }
        if state.redis_answers {
            state.index = Some(state.row);
            state.seen = true;
        }
    }
}

impl Model for SaleClocks {
    type State = ClocksState;
    type Action = ClocksAction;

    fn init_states(&self) -> Vec<ClocksState> {
        vec![ClocksState {
            hour: PREHEAT - 1,
            wrong: None,
            ever_wrong: false,
            redis_answers: true,
            mysql_answers: true,
            row: Row::Open,
            index: None,
            seen: false,
        }]
    }

    fn actions(&self, state: &ClocksState, actions: &mut Vec<ClocksAction>) {
        use WhoseClock::{Mysql, Operator, Redis};
        if state.hour < LAST {
            actions.push(ClocksAction::HourPasses);
        }
        match state.wrong {
            Some(_) => actions.push(ClocksAction::ClockIsSet(None)),
            None => {
                let all = [Operator, Redis, Mysql]
                    .into_iter()
                    .flat_map(|whose| [-4, -1, 1, 4].map(|by| ClocksAction::ClockIsSet(Some((whose, by)))));
                actions.extend(all);
            }
        }
        actions.extend([
            ClocksAction::RedisAnswers(!state.redis_answers),
            ClocksAction::MysqlAnswers(!state.mysql_answers),
            ClocksAction::Reconcile,
        ]);
    }

    fn next_state(&self, last: &ClocksState, action: ClocksAction) -> Option<ClocksState> {
        let mut state = last.clone();
        match action {
            ClocksAction::HourPasses => state.hour += 1,
            ClocksAction::ClockIsSet(wrong) => {
                state.wrong = wrong;
                state.ever_wrong = true;
                state.seen = false;
            }
            ClocksAction::RedisAnswers(answers) => state.redis_answers = answers,
            ClocksAction::MysqlAnswers(answers) => state.mysql_answers = answers,
            ClocksAction::Reconcile => self.reconcile(&mut state),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOT_EARLY, |_, state: &ClocksState| {
                !(state.seen && state.sells() && state.hour < START)
            }),
            Property::always(NOT_ENDED_EARLY, |_, state: &ClocksState| {
                state.row != Row::Closed || state.hour >= END
            }),
            Property::always(ON_TIME, |_, state: &ClocksState| {
                state.ever_wrong || state.index != Some(Row::Suspended)
            }),
            Property::sometimes("a sale is closed without Redis", |_, state: &ClocksState| {
                state.row == Row::Closed && !state.redis_answers
            }),
            Property::sometimes("an index is held back", |_, state: &ClocksState| {
                state.index == Some(Row::Suspended)
            }),
            Property::sometimes(
                "a sale is closed on time by two of three clocks",
                |_, state: &ClocksState| {
                    state.row == Row::Closed && state.hour == END && state.wrong.is_some_and(|(_, by)| by < 0)
                },
            ),
        ]
    }
}
