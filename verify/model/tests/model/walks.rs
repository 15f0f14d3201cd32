//! Configurations that are too large to explore: many random walks, each a different one.
use std::time::Instant;

use libtest_mimic::{Failed, Trial};
use seckill_model::properties;
use seckill_model::{Configuration, Protocol, TierPlan};
use seckill_protocol::index::SaleState::{Closed, Open, Suspended};
use stateright::{Expectation, Model};

use crate::explore::{trial, with_commas};

/// Everything may happen, and more often.
const LARGE: Configuration = Configuration {
    total: 2,
    buyers: 3,
    keys: 2,
    orders_ever_max: 5,
    apis: 2,
    coordinators: 2,
    log: 16,
    barriers: 4,
    pending: 2,
    batch: 2,
    redis_losses: 3,
    split_brain: true,
    coordinators_reach_old: true,
    flip_back: true,
    redis_lags: true,
    cancels: 2,
    totals: &[3, 4],
    refusals: true,
    needless: true,
    ..Configuration::SMALL
};

/// The same with tiers and quantities.
const TIERS: Configuration = Configuration {
    total: 4,
    limit: 2,
    quantities: &[1, 2],
    tiers: Some(TierPlan {
        reserved: 2,
        reserved_for_general: 1,
        limit: 3,
        opens_earlier: true,
    }),
    totals: &[5, 6],
    orders_ever_max: 0,
    batch: 1,
    desired_states: &[Suspended, Open, Closed],
    mysql_losses: 1,
    ..LARGE
};

const ALL: &[(&str, usize, Configuration)] = &[
    ("walks", 6_000, LARGE),
    (
        "walks_to_the_end",
        6_000,
        Configuration {
            desired_states: &[Suspended, Open, Closed],
            ..LARGE
        },
    ),
    (
        "walks_mysql",
        6_000,
        Configuration {
            desired_states: &[Suspended, Open, Closed],
            mysql_losses: 2,
            ..LARGE
        },
    ),
    ("walks_tiers", 6_000, TIERS),
    ("extended_walks", 50_000, LARGE),
    (
        "extended_walks_to_the_end",
        50_000,
        Configuration {
            desired_states: &[Suspended, Open, Closed],
            ..LARGE
        },
    ),
    (
        "extended_walks_mysql",
        50_000,
        Configuration {
            desired_states: &[Suspended, Open, Closed],
            mysql_losses: 2,
            ..LARGE
        },
    ),
    ("extended_walks_tiers", 50_000, TIERS),
];

/// The longest walk.
const MAX_STEPS: usize = 300;

pub fn trials() -> Vec<Trial> {
    let walk =
        |(name, walks, config): &'static (&str, usize, Configuration)| trial(*name, move || walk(name, *walks, config));
    ALL.iter().map(walk).collect()
}

fn walk(name: &str, walks: usize, config: &Configuration) -> Result<(), Failed> {
    let started = Instant::now();
    let mut model = Protocol::new(config.clone());
    let mut unseen: Vec<_> = properties::all(config);
    unseen.retain(|property| property.expectation == Expectation::Sometimes);
    let (mut steps, mut actions) = (0, Vec::new());
    for seed in 0..walks {
        if seed % 1_000 == 0 {
            // A model keeps every log that it has seen, so it grows.
            model = Protocol::new(config.clone());
        }
        let mut dice = Dice(seed as u64);
        let mut trace = Vec::new();
        let mut state = model.init_states().remove(0);
        while trace.len() < MAX_STEPS {
            actions.clear();
            model.actions(&state, &mut actions);
            let next = loop {
                if actions.is_empty() {
                    break None;
                }
                let action = actions.swap_remove(dice.roll(actions.len()));
                if let Some(next) = model.next_state(&state, action.clone()) {
                    trace.push(action);
                    break Some(next);
                }
            };
            let Some(next) = next else { break };
            state = next;
            steps += 1;
            unseen.retain(|property| !(property.condition)(&model, &state));
            if let Some(violated) = state.violated {
                let trace: Vec<String> = trace.iter().map(|action| format!("{action:?}")).collect();
                return Err(format!("violated: {violated}, seed {seed}\n    {}", trace.join("\n    ")).into());
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let (walks, steps) = (with_commas(walks), with_commas(steps));
    // Walks are samples: what never happened is printed, and is no failure.
    let missed: Vec<_> = unseen.iter().map(|property| property.name).collect();
    let missed = match missed.is_empty() {
        true => String::new(),
        false => format!(", never happened: {}", missed.join(", ")),
    };
    println!("{name}: {config}: {walks} walks, {steps} steps, {seconds:.1} s{missed}");
    Ok(())
}

/// SplitMix64: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}
