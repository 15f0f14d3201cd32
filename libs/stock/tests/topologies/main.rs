//! Sentinel, Cluster, TLS and logins, with real servers that each test starts.
mod access;
#[path = "../common/mod.rs"]
mod common;
#[path = "../purchases/mod.rs"]
mod purchases;

use std::time::Duration;

use common::{account_rules, install, new_sale, write};
use purchases::{buy, connect, is_reserved, open_terms};
use seckill_protocol::index::{Fenced, Terms};
use seckill_protocol::{AdjustmentOutcome, Buyer, Epoch, PendingAdjustment, SaleId, StockAdjustment};
use seckill_stock::{Applied, StockClient};
use seckill_test_redis::{RedisCluster, RedisServer, SentinelSet, eventually};

/// Of the account in examples.
const LOGIN: &str = "seckill:change-me@";

/// The options of a server that has the account of examples/redis.acl.
fn with_account() -> Vec<&'static str> {
    [vec!["--user"], account_rules()].concat()
}

/// A server that was promoted has the index of the old one, and it is stale there. A new one takes its place.
async fn rebuild_after_promotion(client: &StockClient, sale: SaleId, epoch: Epoch) {
    eventually("the index is stale at the new primary", async || {
        let stale = |probe: &seckill_stock::Probe| probe.server.is_master && probe.valid().is_none();
        // Each connection follows for itself.
        let administration = client.probe(sale).await;
        let holdings = client.probe_for_rebuild(sale).await;
        administration.is_ok_and(|probe| stale(&probe)) && holdings.is_ok_and(|probe| stale(&probe))
    })
    .await;
    install(client, sale, epoch, 9, open_terms()).await;
    eventually("the first purchase after the promotion", async || {
        is_reserved(&buy(client, sale, epoch, "after").await)
    })
    .await;
    // No call has used this connection since the old primary went away, so the first one may find it broken.
    eventually("the outbox of the new primary", async || {
        let entries = client.outbox(sale, epoch, 0, 9).await;
        entries.is_ok_and(|entries| entries.len() == 1)
    })
    .await;
}

/// A sale whose slot one of the first primaries serves.
async fn sale_on(cluster: &RedisCluster, primary: usize) -> (SaleId, u16) {
    loop {
        let sale = new_sale();
        let (serves, slot) = cluster.primary_of(&format!("{{{sale}}}:m")).await;
        if serves == primary {
            return (sale, slot);
        }
    }
}

#[tokio::test]
async fn sentinels_lead_to_the_promoted_replica_after_the_primary_was_killed() {
    let mut set = SentinelSet::start_with(&with_account(), "").await;
    let (client, sale) = (connect(&set.url_with(LOGIN)).await, new_sale());
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    assert!(is_reserved(&buy(&client, sale, Epoch(5), "a").await));
    set.servers[0].kill();
    rebuild_after_promotion(&client, sale, Epoch(6)).await;
}

#[tokio::test]
async fn a_failover_that_a_person_asks_the_sentinels_for_is_followed() {
    let set = SentinelSet::start().await;
    let (client, sale) = (connect(&set.url()).await, new_sale());
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    set.fail_over().await;
    rebuild_after_promotion(&client, sale, Epoch(6)).await;
}

#[tokio::test]
async fn an_idle_client_follows_the_announcement_of_a_sentinel() {
    let set = SentinelSet::start_with(&with_account(), "").await;
    let client = connect(&set.url_with(LOGIN)).await;
    // Its connections stay open and never break.
    set.servers[0].pause();
    set.until_promoted().await;
    eventually("the idle connections lead to the new primary", async || {
        let clients: String = set.servers[1].command(&["CLIENT", "LIST", "TYPE", "normal"]).await;
        clients.matches("user=seckill").count() >= 3
    })
    .await;
    set.servers[0].resume();
    drop(client);
}

#[tokio::test]
async fn a_client_needs_one_sentinel_that_answers() {
    let mut set = SentinelSet::start().await;
    for sentinel in &mut set.sentinels[1..] {
        sentinel.kill();
    }
    let client = connect(&set.url()).await;
    assert!(client.probe(new_sale()).await.expect("answers").server.is_master);

    set.sentinels[0].kill();
    let error = StockClient::connect(&set.url())
        .await
        .expect_err("nobody answers")
        .to_string();
    assert!(error.contains("no Sentinel names a primary"), "{error}");
    // The connections to the primary need no Sentinel.
    assert!(client.probe(new_sale()).await.is_ok());
}

#[tokio::test]
async fn sentinels_that_do_not_know_the_master_are_named() {
    let set = SentinelSet::start().await;
    let url = set.url().replace("/shop", "/other");
    let error = StockClient::connect(&url)
        .await
        .expect_err("no such master")
        .to_string();
    assert!(error.contains("watches no master called other"), "{error}");
}

#[tokio::test]
async fn sentinels_with_a_login_of_their_own_are_asked() {
    let rules = include_str!("../../../../examples/redis-sentinel.acl");
    // The Sentinels log in at each other as well.
    let configuration = format!("{rules}\nuser default on nopass ~* &* +@all");
    let set = SentinelSet::start_with(&[], &configuration).await;
    for sentinel in &set.sentinels {
        let () = sentinel
            .command(&["ACL", "SETUSER", "default", "-@all", "+acl", "+ping"])
            .await;
    }
    let config: seckill_stock::RedisConfig = set.url().parse().expect("a URL");
    let error = StockClient::connect_to(&config)
        .await
        .expect_err("no login")
        .to_string();
    assert!(error.contains("user default lacks a right"), "{error}");
    let login = seckill_stock::config::Login {
        user: Some("seckill".into()),
        password: Some("change-me".into()),
    };
    let client = StockClient::connect_to(&config.clone().with_sentinel_login(login)).await;
    assert!(client.expect("answers").probe(new_sale()).await.is_ok());
}

#[tokio::test]
async fn every_call_reaches_the_node_of_its_sale() {
    let cluster = RedisCluster::start_with(0, &with_account()).await;
    let client = connect(&cluster.url_with(LOGIN)).await;
    let mut sales = Vec::new();
    for primary in [0, 1, 2, 1] {
        sales.push(sale_on(&cluster, primary).await.0);
    }
    for sale in &sales {
        write(&client, *sale, Epoch(4), &[(Buyer::anonymous("h"), Vec::new())])
            .await
            .expect("answers");
        install(&client, *sale, Epoch(5), 9, open_terms()).await;
        client.drop_epochs_before(*sale, Epoch(5)).await.expect("answers");
        assert!(is_reserved(&buy(&client, *sale, Epoch(5), "a").await));
        let raise = PendingAdjustment {
            offset: 6,
            since: Epoch(5),
            adjustment: StockAdjustment::Raise { total: 11 },
        };
        let raised = client.apply_adjustments(*sale, &[raise]).await.expect("answers");
        assert_eq!(raised, [AdjustmentOutcome::Done]);
        let newer = Terms {
            version: 2,
            ..open_terms()
        };
        assert_eq!(
            client.apply(*sale, Epoch(5), &newer).await.expect("answers"),
            Applied::Done
        );
        assert_eq!(client.outbox(*sale, Epoch(5), 0, 9).await.expect("answers").len(), 1);
        assert_eq!(client.trim_outbox(*sale, Epoch(5), 1).await.expect("answers"), 1);
        let held = client
            .holdings_of(*sale, Epoch(5), &Buyer::anonymous("a"))
            .await
            .expect("answers");
        assert_eq!(held.expect("in force").len(), 1);
    }
    let probes = client.probe_all(&sales).await.expect("answers");
    let left = probes.iter().map(|probe| Some(probe.as_ref()?.valid()?.left));
    assert_eq!(left.collect::<Vec<_>>(), [Some(10); 4]);
    let settings = client.settings().await.expect("answers");
    let mut servers: Vec<_> = settings.into_iter().filter_map(|settings| settings.server).collect();
    servers.sort();
    let mut nodes: Vec<String> = cluster.nodes.iter().map(|node| node.address().to_string()).collect();
    nodes.sort();
    assert_eq!(servers, nodes);
    for sale in sales {
        client.drop_sale(sale).await.expect("answers");
    }
    for node in &cluster.nodes {
        assert_eq!(node.command::<u64>(&["DBSIZE"]).await, 0);
    }
}

#[tokio::test]
async fn a_node_that_is_away_stops_only_its_own_sales() {
    let mut cluster = RedisCluster::start_with(0, &["--cluster-require-full-coverage", "no"]).await;
    let client = connect(&cluster.url()).await;
    let (lost, kept) = (sale_on(&cluster, 0).await.0, sale_on(&cluster, 2).await.0);
    for sale in [lost, kept] {
        install(&client, sale, Epoch(5), 9, open_terms()).await;
    }
    cluster.nodes[0].kill();
    assert!(buy(&client, lost, Epoch(5), "a").await.is_err());
    assert!(is_reserved(&buy(&client, kept, Epoch(5), "a").await));
    let probes = client.probe_all(&[lost, kept]).await.expect("one answers");
    assert!(matches!(probes.as_slice(), [None, Some(_)]), "{probes:?}");
    // A program that starts now serves the others too.
    let other = connect(&cluster.url()).await;
    assert!(is_reserved(&buy(&other, kept, Epoch(5), "b").await));
}

#[tokio::test]
async fn a_slot_that_moves_is_followed() {
    let cluster = RedisCluster::start().await;
    let client = connect(&cluster.url()).await;
    let (sale, slot) = sale_on(&cluster, 0).await;
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    assert!(is_reserved(&buy(&client, sale, Epoch(5), "a").await));

    cluster.begin_move(slot, 0, 1).await;
    cluster.move_keys(slot, 0, 1).await;
    // The keys are at the other node, which answers only after ASKING. Its replication id is another one.
    assert!(matches!(
        buy(&client, sale, Epoch(5), "b").await,
        Ok(Err(Fenced::Stale))
    ));
    let before = RedisCluster::calls(&cluster.nodes[1]).await;
    assert!(before.contains_key("asking"), "{before:?}");

    cluster.end_move(slot, 0, 1).await;
    // The first call learns it by MOVED and is sent once more, to the other node.
    assert!(matches!(
        buy(&client, sale, Epoch(5), "b").await,
        Ok(Err(Fenced::Stale))
    ));
    install(&client, sale, Epoch(6), 9, open_terms()).await;
    assert!(is_reserved(&buy(&client, sale, Epoch(6), "b").await));
    // The indexes are found without a call to the old node.
    let probes = client.probe_all(&[sale]).await.expect("answers");
    assert!(
        probes[0].as_ref().is_some_and(|probe| probe.valid().is_some()),
        "{probes:?}"
    );
}

#[tokio::test]
async fn a_slot_whose_keys_are_at_two_nodes_gives_an_error_and_sells_nothing() {
    let cluster = RedisCluster::start().await;
    let client = connect(&cluster.url()).await;
    let (sale, slot) = sale_on(&cluster, 0).await;
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    // The holdings and the outbox do not exist yet, so the node can't tell where they would be.
    cluster.begin_move(slot, 0, 1).await;
    let refused = buy(&client, sale, Epoch(5), "a")
        .await
        .expect_err("TRYAGAIN")
        .to_string();
    assert!(refused.contains("TryAgain"), "{refused}");
    assert_eq!(client.outbox_len(sale, Epoch(5)).await.ok(), Some(0));
}

#[tokio::test]
async fn a_cluster_sells_again_after_a_primary_was_killed() {
    let mut cluster = RedisCluster::start_with_replicas().await;
    let client = connect(&cluster.url()).await;
    let (sale, _) = sale_on(&cluster, 0).await;
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    assert!(is_reserved(&buy(&client, sale, Epoch(5), "a").await));
    // Also one of the addresses in the URL.
    cluster.nodes[0].kill();
    rebuild_after_promotion(&client, sale, Epoch(6)).await;
}

#[tokio::test]
async fn a_cluster_failover_that_cuts_no_connection_is_followed() {
    let cluster = RedisCluster::start_with_replicas().await;
    let client = connect(&cluster.url()).await;
    let (sale, _) = sale_on(&cluster, 1).await;
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    assert!(is_reserved(&buy(&client, sale, Epoch(5), "a").await));
    cluster.fail_over(1).await;
    rebuild_after_promotion(&client, sale, Epoch(6)).await;
}

#[tokio::test]
async fn a_call_whose_connection_breaks_is_not_repeated() {
    let mut cluster = RedisCluster::start_with_replicas().await;
    let client = connect(&cluster.url()).await;
    let (sale, _) = sale_on(&cluster, 0).await;
    install(&client, sale, Epoch(5), 9, open_terms()).await;
    cluster.nodes[0].pause();
    let (decided, ()) = tokio::join!(buy(&client, sale, Epoch(5), "a"), async {
        // The call is under way by then. If not, it finds no server.
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.nodes[0].kill();
    });
    assert!(decided.is_err(), "{decided:?}");
    cluster.until_promoted(0).await;
    // The refresh of the slots goes on meanwhile, and nothing else.
    eventually("the client knows the new primary", async || {
        RedisCluster::calls(cluster.replica_of(0))
            .await
            .contains_key("cluster|slots")
    })
    .await;
    let calls = RedisCluster::calls(cluster.replica_of(0)).await;
    assert!(!calls.contains_key("evalsha"), "{calls:?}");
}

#[tokio::test]
async fn a_url_of_the_wrong_topology_is_named() {
    let one = RedisServer::start().await;
    let error = StockClient::connect(&format!("redis+cluster://{}", one.address())).await;
    let error = error.expect_err("no Cluster").to_string();
    assert!(error.contains("it is no Cluster: use redis://"), "{error}");

    let cluster = RedisCluster::start().await;
    let client = connect(&cluster.nodes[0].url()).await;
    let (sale, _) = sale_on(&cluster, 2).await;
    let error = client.probe(sale).await.expect_err("another node has it").to_string();
    assert!(error.contains("redis+cluster://"), "{error}");
}
