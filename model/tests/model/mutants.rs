//! Each rule of the protocol, broken: the model must see what the rule is for.
use libtest_mimic::{Failed, Trial};
use seckill_model::properties::*;
use seckill_model::{Configuration, Protocol, Rule};
use seckill_protocol::index::SaleState::{Closed, Open, Suspended};
use stateright::{Checker, HasDiscoveries, Model};

use crate::{explored, trial};

/// A name, the rule, where it is broken, and the property that breaks with it.
type Mutant = (&'static str, Configuration, &'static str);

const R: Configuration = Configuration {
    barriers: 1,
    redis_losses: 1,
    copies: 0,
    ..Configuration::SMALL
};
const C: Configuration = Configuration {
    cancels: 1,
    keys: 2,
    buyers: 1,
    ..R
};
const E: Configuration = Configuration {
    wishes: &[Closed],
    refusals: true,
    ..R
};

pub const MUTANTS: &[Mutant] = &[
    (
        "answer_before_publishing",
        Configuration {
            broken: &[Rule::AnswerAfterPublishing],
            ..R
        },
        PROMISE,
    ),
    (
        "answer_before_read_back",
        Configuration {
            broken: &[Rule::AnswerAfterReadBack],
            ..R
        },
        PROMISE,
    ),
    (
        "replay_without_read_back",
        Configuration {
            broken: &[Rule::ReplayAfterReadBack],
            ..R
        },
        PROMISE,
    ),
    (
        "void_answered_as_failed",
        Configuration {
            copies: 1,
            refusals: true,
            broken: &[Rule::VoidIsNotFailed],
            ..R
        },
        REFUSAL,
    ),
    (
        "state_before_replay",
        Configuration {
            broken: &[Rule::ReplayBeforeState],
            ..E
        },
        REFUSAL,
    ),
    (
        "refusal_without_cur",
        Configuration {
            apis: 2,
            split_brain: true,
            refusals: true,
            broken: &[Rule::RefusalOfTheCurrentEpoch],
            ..R
        },
        REFUSAL,
    ),
    (
        "ended_from_two_snapshots",
        Configuration {
            mysql_losses: 1,
            broken: &[Rule::EndedFromOneSnapshot],
            ..E
        },
        REFUSAL,
    ),
    (
        "barrier_ignored",
        Configuration {
            broken: &[Rule::BarrierEndsEpoch],
            ..R
        },
        OVERSOLD,
    ),
    (
        "epoch_at_least",
        Configuration {
            barriers: 2,
            coordinators: 2,
            redis_losses: 2,
            log: 7,
            broken: &[Rule::EpochEquals],
            ..R
        },
        OVERSOLD,
    ),
    (
        "close_not_final",
        Configuration {
            coordinators: 1,
            broken: &[Rule::CloseIsFinal],
            ..E
        },
        CLOSED,
    ),
    (
        "duplicates_by_record",
        Configuration {
            batch: 2,
            pending: 2,
            total: 2,
            broken: &[Rule::DuplicatesByOrder],
            ..R
        },
        OVERSOLD,
    ),
    (
        "duplicates_of_live_orders",
        Configuration {
            copies: 1,
            broken: &[Rule::DuplicatesOfEveryStatus],
            ..C
        },
        BALANCE,
    ),
    (
        "total_lowered",
        Configuration {
            totals: &[2, 1],
            broken: &[Rule::TotalOnlyRises],
            ..R
        },
        OVERSOLD,
    ),
    (
        "fence_by_script_cache",
        Configuration {
            redis_lags: true,
            total: 2,
            broken: &[Rule::PurchaseFence],
            ..R
        },
        NUMBER,
    ),
    (
        "purchase_by_any_epoch",
        Configuration {
            apis: 2,
            split_brain: true,
            flip_back: true,
            refusals: true,
            broken: &[Rule::PurchaseEpoch],
            ..R
        },
        OVERSOLD,
    ),
    (
        "rebuild_trusts_redis",
        Configuration {
            redis_lags: true,
            broken: &[Rule::RebuildFromLog],
            ..R
        },
        BALANCE,
    ),
    (
        "fold_of_the_ledger_only",
        Configuration {
            broken: &[Rule::FoldToTheBarrier],
            ..R
        },
        OVERSOLD,
    ),
    (
        "rebuild_forgets_cancelled",
        Configuration {
            broken: &[Rule::RebuildKeepsCancelled],
            ..C
        },
        INDEX,
    ),
    (
        "barrier_adopted",
        Configuration {
            coordinators: 2,
            total: 2,
            broken: &[Rule::OwnBarrier],
            ..R
        },
        BALANCE,
    ),
    (
        "install_without_epoch",
        Configuration {
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            broken: &[Rule::InstallNewerOnly],
            ..R
        },
        BALANCE,
    ),
    (
        "install_without_count",
        Configuration {
            redis_losses: 2,
            broken: &[Rule::InstallCountsHolders],
            ..R
        },
        INDEX,
    ),
    (
        "install_retried",
        Configuration {
            redis_lags: true,
            total: 2,
            redis_losses: 2,
            broken: &[Rule::InstallOnce],
            ..R
        },
        BALANCE,
    ),
    (
        "install_retried_without_epoch",
        Configuration {
            total: 2,
            broken: &[Rule::InstallOnce, Rule::InstallNewerOnly],
            ..R
        },
        BALANCE,
    ),
    (
        "apply_older_terms",
        Configuration {
            coordinators: 2,
            wishes: &[Suspended],
            broken: &[Rule::ApplyNewerOnly],
            ..R
        },
        TERMS,
    ),
    (
        "live_epoch_falls",
        Configuration {
            coordinators: 2,
            barriers: 2,
            redis_losses: 2,
            log: 7,
            broken: &[Rule::LiveEpochOnlyRises],
            ..R
        },
        STUCK,
    ),
    (
        "need_blind_to_barriers",
        Configuration {
            needless: true,
            broken: &[Rule::NeedSeesBarrier],
            ..R
        },
        STUCK,
    ),
    (
        "need_blind_to_live_epoch",
        Configuration {
            broken: &[Rule::NeedSeesLiveEpoch],
            ..R
        },
        STUCK,
    ),
    (
        "effects_in_memory",
        Configuration {
            broken: &[Rule::EffectsAreRows],
            ..C
        },
        BALANCE,
    ),
    (
        "effects_before_commit",
        Configuration {
            split_brain: true,
            flip_back: true,
            mysql_losses: 1,
            broken: &[Rule::EffectsAfterCommit],
            ..C
        },
        BALANCE,
    ),
    (
        "effect_without_fence",
        Configuration {
            split_brain: true,
            flip_back: true,
            broken: &[Rule::EffectFence],
            ..C
        },
        BALANCE,
    ),
    (
        "effect_on_an_older_index",
        Configuration {
            coordinators: 2,
            barriers: 2,
            log: 7,
            broken: &[Rule::EffectWaitsForEpoch],
            ..C
        },
        BALANCE,
    ),
    (
        "return_by_seq_alone",
        Configuration {
            keys: 3,
            limit: 2,
            total: 2,
            cancels: 2,
            log: 7,
            broken: &[Rule::ReturnByEpochAndSeq],
            ..C
        },
        BALANCE,
    ),
    (
        "return_without_mark",
        Configuration {
            broken: &[Rule::ReturnMarks],
            ..C
        },
        INDEX,
    ),
    (
        "close_with_outbox",
        Configuration {
            broken: &[Rule::CloseAfterOutbox],
            ..E
        },
        SETTLEMENT,
    ),
    (
        "terms_not_renumbered",
        Configuration {
            wishes: &[Suspended, Open],
            mysql_losses: 1,
            redis_losses: 0,
            broken: &[Rule::TermsOutnumberTheIndex],
            ..R
        },
        TERMS,
    ),
    (
        "settled_with_effects_owed",
        Configuration {
            cancels: 1,
            redis_losses: 0,
            broken: &[Rule::SettledWhenNothingIsOwed],
            ..E
        },
        SETTLEMENT,
    ),
    (
        "settled_without_in_flight",
        Configuration {
            coordinators: 2,
            broken: &[Rule::SettledWithInFlight],
            ..E
        },
        SETTLEMENT,
    ),
    (
        "settled_as_of_now",
        Configuration {
            cancels: 1,
            redis_losses: 0,
            broken: &[Rule::SettledAsOfClose],
            ..E
        },
        SETTLEMENT,
    ),
];

pub fn trials() -> Vec<Trial> {
    let refuted = |(name, configuration, property): &'static Mutant| {
        trial(format!("mutant_{name}"), move || refuted(name, configuration, property))
    };
    MUTANTS.iter().map(refuted).collect()
}

/// The model finds a way to break the property.
fn refuted(name: &str, configuration: &Configuration, property: &'static str) -> Result<(), Failed> {
    let checker = Protocol::new(configuration.clone())
        .checker()
        .finish_when(HasDiscoveries::AnyFailures);
    let (checker, seconds) = explored(checker);
    let states = checker.unique_state_count();
    let always = checker.model().properties();
    let always = always
        .iter()
        .filter(|p| p.expectation == stateright::Expectation::Always);
    let broken = always.filter_map(|p| Some((p.name, checker.discovery(p.name)?))).next();
    match broken {
        None => Err(format!("it survives: {states} states, {seconds:.1} s").into()),
        Some((broken, path)) => {
            let trace = path.into_actions();
            println!(
                "{name}: refuted in {} steps: {broken} ({states} states, {seconds:.1} s)",
                trace.len()
            );
            if broken == property {
                return Ok(());
            }
            let steps: Vec<String> = trace.iter().map(|a| format!("{a:?}")).collect();
            Err(format!("expected: {property}\n    {}", steps.join("\n    ")).into())
        }
    }
}
