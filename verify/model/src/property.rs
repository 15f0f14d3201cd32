//! The names of the properties. The numbers are those of the invariants in docs/chaos.md.
pub const OVERSOLD: &str = "I1 no more live units than the total";
pub const PROMISE: &str = "I2 I9 every number given out is accepted in the log";
pub const STAYS: &str = "I2 what was accepted stays accepted";
pub const LIMIT: &str = "I5 no buyer holds more than the limit";
pub const KEY: &str = "I6 the same buyer and key is the same order";
pub const NUMBER: &str = "I7 a number stands for one order";
pub const BALANCE: &str = "I3 I10 at rest: total = left + live";
pub const INDEX: &str = "I12 at rest: the index is the fold of the log";
pub const TERMS: &str = "I8 at rest: the index has the terms of the sale's row";
pub const TAKEN_BACK: &str = "I8 nothing is sold by terms older than those that took effect";
pub const REFUSAL: &str = "N1 no holder of an accepted order is refused";
pub const CLOSED: &str = "after CLOSE no order is added and the total stays";
pub const SETTLEMENT: &str = "a settlement finds what the index has left";
pub const STUCK: &str = "I13 nothing waits for ever";
pub const ADJUSTMENT: &str = "a stock adjustment finds its order";
pub const ORDERS: &str = "no more orders are ever made than the bound";
pub const ADJUSTED: &str = "the index has every adjustment up to the offset that it names";
pub const REACHED: &str = "at rest: the index names the last CANCEL or a later offset";
pub const FOLD: &str = "I12 the ledger and the log together are the log";
pub const CONTENT: &str = "an order has one tier and one quantity for ever";
pub const RESERVE: &str = "until its release a reserve keeps its units for its tier";
pub const OPENING: &str = "nobody buys before the opening of the tier";
pub const TAKEN: &str = "at rest: the index counts the live units of each tier";
pub const AVAILABLE: &str = "at rest: each tier can buy what the reserves of the others leave";

/// All properties that must hold in every state.
pub const ALWAYS: [&str; 24] = [
    OVERSOLD, PROMISE, STAYS, LIMIT, KEY, NUMBER, BALANCE, INDEX, TERMS, REFUSAL, CLOSED, SETTLEMENT, STUCK,
    ADJUSTMENT, FOLD, TAKEN_BACK, ORDERS, ADJUSTED, REACHED, CONTENT, RESERVE, OPENING, TAKEN, AVAILABLE,
];
