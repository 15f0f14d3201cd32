//! Applies stock adjustments to an index in force: a cancelled order returns its units, a raised total adds units.
use std::sync::LazyLock;

use redis::Script;
use seckill_protocol::{AdjustmentOutcome, PendingAdjustment, SaleId, StockAdjustment};

use crate::client::{StockClient, StockError};
use crate::keys;
use crate::roles::Role;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/adjust.lua")));

impl StockClient {
    /// The most adjustments in one call. It bounds the time for which purchases wait.
    pub const MAX_ADJUSTMENTS: usize = 256;

    /// Applies adjustments of one sale, in the order of the log and beginning with the first pending one. It stops at
    /// the first one that has to wait: there is an outcome for each one up to there. May be repeated.
    pub async fn apply_adjustments(
        &self,
        sale: SaleId,
        adjustments: &[PendingAdjustment],
    ) -> Result<Vec<AdjustmentOutcome>, StockError> {
        debug_assert!((1..=Self::MAX_ADJUSTMENTS).contains(&adjustments.len()));
        let mut args = vec![keys::holdings_prefix(sale)];
        for pending in adjustments {
            args.extend([pending.offset.to_string(), pending.since.to_string()]);
            args.extend(arguments(&pending.adjustment));
        }
        let keys = [keys::figures(sale)];
        let reply: Vec<String> = self.call(sale, Role::Administration, &SCRIPT, &keys, &args[..]).await?;
        parse_reply(&reply, adjustments.len()).ok_or_else(|| StockError::Reply(format!("{reply:?}")))
    }
}

fn arguments(adjustment: &StockAdjustment) -> [String; 4] {
    match adjustment {
        StockAdjustment::Return { buyer, epoch, seq } => {
            ["return".into(), buyer.to_string(), epoch.to_string(), seq.to_string()]
        }
        StockAdjustment::Raise { total } => ["raise".into(), total.to_string(), String::new(), String::new()],
        StockAdjustment::Pass => ["pass".into(), String::new(), String::new(), String::new()],
    }
}

fn parse_reply(reply: &[String], sent: usize) -> Option<Vec<AdjustmentOutcome>> {
    let letters = match reply {
        [replica] if replica == "replica" => return Some(vec![AdjustmentOutcome::Replica]),
        [word, letters] if word == "ok" || word == "notyet" => letters,
        _ => return None,
    };
    let outcome = |letter| match letter {
        'd' => Some(AdjustmentOutcome::Done),
        'a' => Some(AdjustmentOutcome::Already),
        'u' => Some(AdjustmentOutcome::NoSuchOrder),
        'w' => Some(AdjustmentOutcome::NotYet),
        _ => None,
    };
    let outcomes: Vec<AdjustmentOutcome> = letters.chars().map(outcome).collect::<Option<_>>()?;
    let stopped = outcomes.last().is_some_and(|last| !last.is_final());
    (outcomes.len() == sent || stopped && outcomes.len() < sent).then_some(outcomes)
}
