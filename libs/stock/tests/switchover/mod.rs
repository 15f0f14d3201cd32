//! What the client does when its address leads to another server while its connections stay open.
use std::time::{Duration, Instant};

use seckill_protocol::adjustment::apply_adjustments;
use seckill_protocol::index::{Fenced, Server, Terms, purchase};
use seckill_protocol::install::{self, InstallRefused, WrittenHoldings, apply};
use seckill_protocol::{AdjustmentOutcome, Buyer, Epoch, PendingAdjustment, StockAdjustment};
use seckill_stock::{Install, Installed, StockError};
use seckill_test_redis::{Address, RedisCluster, RedisServer, eventually};

use crate::common::{install, new_sale, write};
use crate::purchases::{buy, connect, is_reserved, open_terms, request};

/// Far longer than a replacement takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// An adjustment whose record is just after the barrier of an epoch.
fn pending(since: Epoch, adjustment: StockAdjustment) -> PendingAdjustment {
    PendingAdjustment {
        offset: since.0 + 1,
        since,
        adjustment,
    }
}

/// The address leads to the other server of a pair, which was promoted. No connection is cut.
async fn switch_over(address: &Address, old: &RedisServer, new: &RedisServer) {
    new.promote().await;
    address.lead_to(new);
    old.follow(new).await;
}

#[tokio::test]
async fn every_script_answers_replica_on_a_replica() {
    let (primary, replica) = RedisServer::start_pair().await;
    let (sale, empty) = (new_sale(), new_sale());
    let mut index = install(&connect(&primary.url()).await, sale, Epoch(5), 3, open_terms()).await;
    let client = connect(&replica.url()).await;
    eventually("the index is replicated", async || {
        client.probe(sale).await.expect("answers").index.is_some()
    })
    .await;
    let server = Server {
        is_master: false,
        rid: index.rid.clone(),
        now: 0,
    };
    let raise = StockAdjustment::Raise { total: 9 };
    let cancel = StockAdjustment::Return {
        buyer: Buyer::anonymous("k"),
        epoch: Epoch(5),
        seq: 1,
    };
    let newer = Terms {
        version: 2,
        ..open_terms()
    };
    for sale in [sale, empty] {
        let mut known = Some(&mut index).filter(|index| index.sale == sale);
        for epoch in [Epoch(4), Epoch(5), Epoch(6)] {
            let decided = client.purchase(sale, epoch, &[request("k", 1)]).await.expect("answers");
            assert_eq!(
                decided,
                purchase(known.as_deref_mut(), &server, epoch, &[request("k", 1)])
            );
            let applied = client.apply(sale, epoch, &newer).await.expect("answers");
            assert_eq!(applied, apply(known.as_deref_mut(), &server, epoch, &newer));
            for adjustment in [&raise, &cancel] {
                let pending = [pending(epoch, adjustment.clone())];
                let outcomes = client.apply_adjustments(sale, &pending).await.expect("answers");
                assert_eq!(outcomes, apply_adjustments(known.as_deref_mut(), &server, &pending));
            }
        }
        let what = Install {
            epoch: Epoch(7),
            total: 3,
            left: 3,
            holders: 0,
            orders: 0,
            taken: Vec::new(),
            terms: open_terms(),
        };
        let refused = install::install(known.as_deref(), &server, sale, &what, WrittenHoldings::default());
        assert_eq!(refused, Err(InstallRefused::NotAPrimary));
        let installed = client.install(sale, &what).await.expect("answers");
        assert_eq!(installed, Installed::Replica);
        assert!(!client.probe(sale).await.expect("answers").server.is_master);
        let read = client.outbox(sale, Epoch(5), 0, 10).await;
        assert!(matches!(read, Err(StockError::Replica)), "{read:?}");
        let dropped = client.drop_sale(sale).await;
        assert!(matches!(dropped, Err(StockError::Replica)), "{dropped:?}");
    }
}

#[tokio::test]
async fn every_connection_follows_a_switchover_that_cuts_nothing() {
    let (old, new) = RedisServer::start_pair().await;
    let address = Address::of(&old).await;
    let (client, sale) = (connect(&address.url()).await, new_sale());
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    assert!(is_reserved(&buy(&client, sale, Epoch(5), "a").await));
    assert_eq!(client.outbox(sale, Epoch(5), 0, 9).await.expect("answers").len(), 1);
    let holding = [(Buyer::anonymous("h"), Vec::new())];
    write(&client, sale, Epoch(6), &holding).await.expect("answers");

    switch_over(&address, &old, &new).await;
    eventually("purchases reach the new primary", async || {
        !matches!(buy(&client, sale, Epoch(5), "b").await, Ok(Err(Fenced::Replica)))
    })
    .await;
    eventually("administration reaches the new primary", async || {
        client.probe(sale).await.is_ok_and(|probe| probe.server.is_master)
    })
    .await;
    eventually("the outbox is read from the new primary", async || {
        client.outbox(sale, Epoch(5), 0, 9).await.is_ok()
    })
    .await;
    assert_eq!(client.trim_outbox(sale, Epoch(5), 1).await.expect("answers"), 1);
    // Only the error READONLY tells this connection.
    eventually("holdings are written to the new primary", async || {
        write(&client, sale, Epoch(7), &holding).await.is_ok()
    })
    .await;
    install(&client, sale, Epoch(8), 9, open_terms()).await;
    assert!(is_reserved(&buy(&client, sale, Epoch(8), "b").await));
}

#[tokio::test]
async fn calls_leave_an_old_primary_that_does_not_answer() {
    let (old, new) = RedisServer::start_pair().await;
    let address = Address::of(&old).await;
    let (client, sale) = (connect(&address.url()).await, new_sale());
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    old.pause();
    new.promote().await;
    address.lead_to(&new);
    install(&connect(&new.url()).await, sale, Epoch(6), 9, open_terms()).await;
    eventually("purchases reach the new primary", async || {
        is_reserved(&buy(&client, sale, Epoch(6), "a").await)
    })
    .await;
    eventually("administration reaches the new primary", async || {
        client.probe(sale).await.is_ok_and(|probe| probe.valid().is_some())
    })
    .await;
}

#[tokio::test]
async fn administration_of_a_silent_server_fails_within_seconds() {
    let server = RedisServer::start().await;
    let (client, sale) = (connect(&server.url()).await, new_sale());
    server.pause();
    for _ in 0..3 {
        let begun = Instant::now();
        assert!(client.probe(sale).await.is_err());
        // The limit is two seconds.
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    }
    server.resume();
    eventually("the server answers again", async || client.probe(sale).await.is_ok()).await;
}

#[tokio::test]
async fn calls_leave_an_old_primary_that_still_sells() {
    let (old, new) = (RedisServer::start().await, RedisServer::start().await);
    let address = Address::of(&old).await;
    let (client, sale) = (connect(&address.url()).await, new_sale());
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    let raise = |total| StockAdjustment::Raise { total };
    let raised = client.apply_adjustments(sale, &[pending(Epoch(5), raise(10))]).await;
    assert_eq!(raised.expect("answers"), [AdjustmentOutcome::Done]);

    address.lead_to(&new);
    install(&connect(&new.url()).await, sale, Epoch(9), 9, open_terms()).await;
    // The old primary has a valid index of an older epoch, and says so.
    eventually("purchases reach the new primary", async || {
        is_reserved(&buy(&client, sale, Epoch(9), "a").await)
    })
    .await;
    eventually("adjustments reach the new primary", async || {
        let raised = client.apply_adjustments(sale, &[pending(Epoch(9), raise(12))]).await;
        raised.expect("answers") == [AdjustmentOutcome::Done]
    })
    .await;
}

#[tokio::test]
async fn a_replaced_connection_serves_until_the_next_one_is_open() {
    let server = RedisServer::start().await;
    let address = Address::of(&server).await;
    let (client, healthy, lost) = (connect(&address.url()).await, new_sale(), new_sale());
    install(&client, healthy, Epoch(5), 99, open_terms()).await;
    let accepted = address.accepted();
    address.lead_nowhere();
    for n in 0..20 {
        let decided = buy(&client, lost, Epoch(5), "a").await.expect("answers");
        assert_eq!(decided, Err(Fenced::Stale));
        assert!(is_reserved(&buy(&client, healthy, Epoch(5), &n.to_string()).await));
    }
    eventually("an attempt to connect fails", async || {
        assert!(buy(&client, lost, Epoch(5), "a").await.is_ok());
        address.accepted() > accepted
    })
    .await;
    assert!(is_reserved(&buy(&client, healthy, Epoch(5), "last").await));
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_is_not_repeated() {
    let server = RedisServer::start().await;
    let address = Address::of(&server).await;
    let (client, sale) = (connect(&address.url()).await, new_sale());
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    assert!(is_reserved(&buy(&client, sale, Epoch(5), "a").await));
    let before = RedisCluster::calls(&server).await["evalsha"];
    // The next connection works, so a second attempt would reach the server.
    address.lose_next_answer();
    assert!(buy(&client, sale, Epoch(5), "b").await.is_err());
    eventually("another connection is open", async || {
        client.outbox_len(sale, Epoch(5)).await.is_ok()
    })
    .await;
    assert_eq!(client.outbox_len(sale, Epoch(5)).await.expect("answers"), 2);
    assert_eq!(RedisCluster::calls(&server).await["evalsha"], before + 1);
}

#[tokio::test]
async fn replacements_are_rare_while_the_address_leads_to_a_replica() {
    let (_primary, replica) = RedisServer::start_pair().await;
    let address = Address::of(&replica).await;
    let (client, sale) = (connect(&address.url()).await, new_sale());
    let (before, begun) = (address.accepted(), Instant::now());
    let mut calls = 0;
    while address.accepted() < before + 5 {
        let buyers = (0..20).map(|_| async { buy(&client, sale, Epoch(5), "a").await.expect("answers") });
        let decided = futures::future::join_all(buyers).await;
        assert!(decided.iter().all(|decided| *decided == Err(Fenced::Replica)));
        calls += decided.len();
        assert!(begun.elapsed() < WAIT_TIMEOUT, "{calls} calls");
    }
    // Attempts are at least 150 ms apart.
    assert!(begun.elapsed() >= Duration::from_millis(4 * 150), "{calls} calls");
}
