//! Validation of FlashSales by a real API server: which manifests and edits it refuses, and with which messages.
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

async fn client() -> Client {
    let path =
        std::env::var("SECKILL_TEST_KUBECONFIG").expect("SECKILL_TEST_KUBECONFIG; run `cargo xtask test integration`");
    let kubeconfig = Kubeconfig::read_from(path).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a context");
    let client = Client::try_from(config).expect("a client");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let patch = Patch::Apply(seckill_crds::crd());
    crds.patch(
        "flashsales.seckill.dev",
        &PatchParams::apply("operator-tests").force(),
        &patch,
    )
    .await
    .expect("applied");
    let established = kube::runtime::conditions::is_crd_established();
    kube::runtime::wait::await_condition(crds, "flashsales.seckill.dev", established)
        .await
        .expect("established");
    client
}

/// An untyped API, because the type FlashSale can't express the invalid manifests.
fn sales(client: &Client) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("seckill.dev", "v1alpha1", "FlashSale"));
    Api::namespaced_with(client.clone(), "default", &kind)
}

fn valid_manifest(name: &str) -> Value {
    json!({
        "apiVersion": "seckill.dev/v1alpha1",
        "kind": "FlashSale",
        "metadata": {"name": name},
        "spec": {
            // No release has this class, so no operator runs these sales.
            "className": "operator-tests",
            "item": {"sku": "PHONE-1", "id": 1, "name": "Phone One", "price": "1999.00", "currency": "CNY", "description": "Black"},
            "stock": 10,
            "maxPerOrder": 2,
            "ordersEverMax": 100,
            "startsAt": "2030-01-01T10:00:00Z",
            "endsAt": "2030-01-01T11:00:00Z",
            "leadTimeSeconds": 60,
            "coolDownSeconds": 60,
            "demand": {"apiReplicas": 2, "workerReplicas": 1},
            "suspend": false,
            "preflight": "Warn",
        },
    })
}

/// Changes that make the valid manifest invalid: a JSON pointer below /spec, the value (null removes the field), and
/// the field that the refusal must name.
fn invalid_values() -> Vec<(&'static str, Value, &'static str)> {
    let long = |n: usize| Value::String("x".repeat(n));
    vec![
        ("/className", json!(""), "spec.className"),
        ("/className", json!("Upper"), "spec.className"),
        ("/className", json!("-edge"), "spec.className"),
        ("/className", json!("edge-"), "spec.className"),
        ("/className", json!("under_score"), "spec.className"),
        ("/className", long(64), "spec.className"),
        ("/className", json!(7), "spec.className"),
        ("/item", Value::Null, "spec.item"),
        ("/item", json!("phone"), "spec.item"),
        ("/item", json!([]), "spec.item"),
        ("/item/sku", Value::Null, "spec.item.sku"),
        ("/item/sku", json!(""), "spec.item.sku"),
        ("/item/sku", json!("with space"), "spec.item.sku"),
        ("/item/sku", json!(".dot"), "spec.item.sku"),
        ("/item/sku", json!("slash/ed"), "spec.item.sku"),
        ("/item/sku", long(65), "spec.item.sku"),
        ("/item/sku", json!(12), "spec.item.sku"),
        ("/item/id", json!(0), "spec.item.id"),
        ("/item/id", json!(-1), "spec.item.id"),
        ("/item/id", json!("1"), "spec.item.id"),
        ("/item/id", json!(1.5), "spec.item.id"),
        ("/item/id", json!(9_007_199_254_740_992i64), "spec.item.id"),
        ("/item/name", Value::Null, "spec.item.name"),
        ("/item/name", json!(""), "spec.item.name"),
        ("/item/name", long(201), "spec.item.name"),
        ("/item/price", Value::Null, "spec.item.price"),
        ("/item/price", json!(""), "spec.item.price"),
        ("/item/price", json!(1999), "spec.item.price"),
        ("/item/price", json!("cheap"), "spec.item.price"),
        ("/item/price", json!("-1.00"), "spec.item.price"),
        ("/item/price", json!("01.00"), "spec.item.price"),
        ("/item/price", json!("1,00"), "spec.item.price"),
        ("/item/price", json!("1."), "spec.item.price"),
        ("/item/price", json!(".5"), "spec.item.price"),
        ("/item/price", json!("1.00000"), "spec.item.price"),
        ("/item/price", json!("1e3"), "spec.item.price"),
        ("/item/price", json!("123456789012345.00"), "spec.item.price"),
        ("/item/currency", Value::Null, "spec.item.currency"),
        ("/item/currency", json!("eur"), "spec.item.currency"),
        ("/item/currency", json!("EURO"), "spec.item.currency"),
        ("/item/currency", json!("€"), "spec.item.currency"),
        ("/item/description", long(2001), "spec.item.description"),
        ("/item/description", json!(1), "spec.item.description"),
        ("/item/colour", json!("black"), "spec.item.colour"),
        ("/stock", Value::Null, "spec.stock"),
        ("/stock", json!(0), "spec.stock"),
        ("/stock", json!(-1), "spec.stock"),
        ("/stock", json!(10_000_001), "spec.stock"),
        ("/stock", json!("10"), "spec.stock"),
        ("/stock", json!(1.5), "spec.stock"),
        ("/maxPerOrder", json!(0), "spec.maxPerOrder"),
        ("/maxPerOrder", json!(1001), "spec.maxPerOrder"),
        ("/maxPerOrder", json!("2"), "spec.maxPerOrder"),
        ("/ordersEverMax", json!(0), "spec.ordersEverMax"),
        ("/ordersEverMax", json!(10), "spec.ordersEverMax"),
        ("/ordersEverMax", json!(200_000_001), "spec.ordersEverMax"),
        ("/ordersEverMax", json!("100"), "spec.ordersEverMax"),
        ("/startsAt", Value::Null, "spec.startsAt"),
        ("/startsAt", json!("soon"), "spec.startsAt"),
        ("/startsAt", json!("2030-01-01"), "spec.startsAt"),
        ("/startsAt", json!("2030-13-01T10:00:00Z"), "spec.startsAt"),
        ("/startsAt", json!(1_893_492_000), "spec.startsAt"),
        ("/endsAt", Value::Null, "spec.endsAt"),
        ("/endsAt", json!("2030-01-01T10:00:00Z"), "spec.endsAt"),
        ("/endsAt", json!("2029-12-31T10:00:00Z"), "spec.endsAt"),
        ("/endsAt", json!("2030-02-01T10:00:00Z"), "spec.endsAt"),
        ("/endsAt", json!("never"), "spec.endsAt"),
        ("/leadTimeSeconds", json!(59), "spec.leadTimeSeconds"),
        ("/leadTimeSeconds", json!(86_401), "spec.leadTimeSeconds"),
        ("/leadTimeSeconds", json!("5m"), "spec.leadTimeSeconds"),
        ("/coolDownSeconds", json!(-1), "spec.coolDownSeconds"),
        ("/coolDownSeconds", json!(86_401), "spec.coolDownSeconds"),
        ("/demand", json!(3), "spec.demand"),
        ("/demand/apiReplicas", json!(0), "spec.demand.apiReplicas"),
        ("/demand/apiReplicas", json!(1001), "spec.demand.apiReplicas"),
        ("/demand/apiReplicas", json!("2"), "spec.demand.apiReplicas"),
        ("/demand/workerReplicas", json!(0), "spec.demand.workerReplicas"),
        ("/demand/workerReplicas", json!(1001), "spec.demand.workerReplicas"),
        ("/demand/pods", json!(1), "spec.demand.pods"),
        ("/preflight", json!("Maybe"), "spec.preflight"),
        ("/preflight", json!(true), "spec.preflight"),
        ("/suspend", json!("yes"), "spec.suspend"),
        ("/suspend", json!(1), "spec.suspend"),
        ("/access", json!("main"), "spec.access"),
        ("/access", json!({}), "spec.access.issuer"),
        ("/access", json!({"issuer": ""}), "spec.access.issuer"),
        ("/access", json!({"issuer": "https://shop"}), "spec.access.issuer"),
        ("/access", json!({"issuer": "i".repeat(64)}), "spec.access.issuer"),
        (
            "/access",
            json!({"issuer": "main", "audience": "shop"}),
            "spec.access.audience",
        ),
        ("/limitPerBuyer", json!(1), "spec.limitPerBuyer: it needs spec.access"),
        ("/limitPerBuyer", json!(0), "spec.limitPerBuyer"),
        ("/limitPerBuyer", json!(1001), "spec.limitPerBuyer"),
        ("/limitPerBuyer", json!("1"), "spec.limitPerBuyer"),
        ("/stok", json!(10), "spec.stok"),
    ]
}

fn set(manifest: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = manifest
        .pointer_mut(&format!("/spec{parent}"))
        .expect("the parent exists");
    let fields = parent.as_object_mut().expect("an object");
    match value {
        Value::Null => fields.remove(key),
        value => fields.insert(key.to_owned(), value),
    };
}

fn object(manifest: Value) -> DynamicObject {
    serde_json::from_value(manifest).expect("an object")
}

async fn create(sales: &Api<DynamicObject>, manifest: Value) -> Result<DynamicObject, kube::Error> {
    // Strict validation like kubectl: an unknown field is an error, not a warning.
    let params = PostParams {
        dry_run: true,
        field_manager: None,
    };
    let text = serde_json::to_vec(&object(manifest)).expect("serializes");
    let mut request = kube::core::Request::new(sales.resource_url())
        .create(&params, text)
        .expect("a request");
    *request.uri_mut() = format!("{}&fieldValidation=Strict", request.uri())
        .parse()
        .expect("a URI");
    sales.clone().into_client().request(request).await
}

#[tokio::test]
async fn valid_manifests_are_accepted_and_refusals_name_the_invalid_field() {
    let sales = sales(&client().await);
    let accepted = create(&sales, valid_manifest("valid")).await.expect("a valid manifest");
    assert_eq!(accepted.data["spec"]["stock"], json!(10));
    let mut minimal = valid_manifest("minimal");
    for optional in [
        "/leadTimeSeconds",
        "/coolDownSeconds",
        "/demand",
        "/suspend",
        "/maxPerOrder",
        "/ordersEverMax",
        "/className",
        "/item/id",
        "/item/description",
    ] {
        set(&mut minimal, optional, Value::Null);
    }
    let accepted = create(&sales, minimal).await.expect("optional fields can be missing");
    assert_eq!(
        (
            &accepted.data["spec"]["className"],
            &accepted.data["spec"]["leadTimeSeconds"]
        ),
        (&json!("default"), &json!(300))
    );
    assert_eq!(accepted.data["spec"]["maxPerOrder"], json!(1));
    assert_eq!(accepted.data["spec"]["ordersEverMax"], Value::Null);

    let mut limited = valid_manifest("limited");
    set(&mut limited, "/access", json!({"issuer": "main"}));
    set(&mut limited, "/limitPerBuyer", json!(1000));
    create(&sales, limited.clone()).await.expect("a limit with access");
    set(&mut limited, "/access", Value::Null);
    // A field that is null is no field.
    limited["spec"]["access"] = Value::Null;
    let refused = create(&sales, limited).await.expect_err("no access").to_string();
    assert!(refused.contains("an anonymous sale can't know its buyers"), "{refused}");

    let gold = json!({"name": "gold", "values": ["gold"], "opensBeforeSeconds": 60, "limitPerBuyer": 2, "reserved": 4,
        "reservedForSeconds": 30});
    let mut tiered = valid_manifest("tiered");
    set(&mut tiered, "/access", json!({"issuer": "main"}));
    set(
        &mut tiered,
        "/tiers",
        json!([gold, {"name": "silver", "values": ["silver", "s"]}]),
    );
    set(&mut tiered, "/reservedForGeneral", json!(6));
    create(&sales, tiered.clone()).await.expect("tiers with access");
    let name = |name: &str| json!({"name": name, "values": ["v"]});
    for (pointer, value, advice) in [
        ("/access", Value::Null, "spec.tiers: it needs spec.access"),
        ("/tiers", Value::Null, "spec.reservedForGeneral: it needs spec.tiers"),
        ("/reservedForGeneral", json!(7), "must be at most spec.stock together"),
        (
            "/tiers",
            json!([gold, gold]),
            "spec.tiers: two tiers have the same name",
        ),
        (
            "/tiers",
            json!([name("general")]),
            "general is the name for buyers of no tier",
        ),
        ("/tiers", json!([name("Gold")]), "spec.tiers[0].name"),
        (
            "/tiers",
            json!([name("a"), name("b"), name("c"), name("d"), name("e")]),
            "spec.tiers",
        ),
        ("/tiers", json!([{"name": "a", "values": []}]), "spec.tiers[0].values"),
        (
            "/tiers",
            json!([{"name": "a", "values": [""]}]),
            "spec.tiers[0].values[0]",
        ),
        (
            "/tiers",
            json!([{"name": "a", "values": ["v"], "reserved": 1}]),
            "reserved: it needs reservedForSeconds",
        ),
        (
            "/tiers",
            json!([{"name": "a", "values": ["v"], "limitPerBuyer": 0}]),
            "spec.tiers[0].limitPerBuyer",
        ),
        (
            "/tiers",
            json!([{"name": "a", "values": ["v"], "opensBeforeSeconds": 604_801}]),
            "opensBeforeSeconds",
        ),
        (
            "/tiers",
            json!([{"name": "a", "values": ["v"], "reservedForSeconds": -1}]),
            "reservedForSeconds",
        ),
    ] {
        let mut manifest = tiered.clone();
        set(&mut manifest, pointer, value.clone());
        if value.is_null() {
            manifest["spec"].as_object_mut().expect("a spec").remove(&pointer[1..]);
        }
        let refused = create(&sales, manifest).await.expect_err(advice).to_string();
        assert!(refused.contains(advice), "{pointer}={value}: {refused}");
    }

    let cases = invalid_values();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut mismatches = Vec::new();
    for (pointer, value, field) in cases {
        let mut manifest = valid_manifest("invalid");
        set(&mut manifest, pointer, value.clone());
        match create(&sales, manifest).await {
            Err(kube::Error::Api(status)) if status.message.contains(field) => {}
            Err(kube::Error::Api(status)) => mismatches.push(format!(
                "{pointer}={value}: refused, but {field} is not named: {}",
                status.message
            )),
            Err(error) => mismatches.push(format!("{pointer}={value}: {error}")),
            Ok(_) => mismatches.push(format!("{pointer}={value}: accepted")),
        }
    }
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
}

#[tokio::test]
async fn the_example_manifests_are_accepted() {
    let sales = sales(&client().await);
    for example in [
        include_str!("../../examples/access.yaml"),
        include_str!("../../examples/tiers.yaml"),
    ] {
        let manifest: Value = serde_yaml::from_str(example).expect("YAML");
        let accepted = create(&sales, manifest.clone()).await.expect("accepted");
        assert_eq!(accepted.data["spec"]["tiers"], manifest["spec"]["tiers"]);
    }
}

/// The API server takes these times for times. Its rules can't compare the first ones, and the operator can't parse the
/// last ones.
#[tokio::test]
async fn a_time_that_cannot_be_used_is_refused_by_field() {
    let sales = sales(&client().await);
    for (starts_at, ends_at, fields) in [
        ("2030-01-01t10:00:00Z", "2030-01-01T11:00:00Z", &["startsAt"][..]),
        ("2030-01-01T10:00:00z", "2030-01-01T11:00:00Z", &["startsAt"]),
        ("2030-01-01T10:00:00Z", "2030-01-01t11:00:00Z", &["endsAt"]),
        ("2030-01-01T10:00:00Z", "2030-01-01T11:00:00z", &["endsAt"]),
        ("2030-01-01T10:00:00Z", "9999-12-31T23:59:59Z", &["endsAt"]),
        ("9999-12-31T10:00:00Z", "9999-12-31T11:00:00Z", &["startsAt", "endsAt"]),
    ] {
        let mut manifest = valid_manifest("times");
        set(&mut manifest, "/startsAt", json!(starts_at));
        set(&mut manifest, "/endsAt", json!(ends_at));
        let refused = match create(&sales, manifest).await {
            Err(kube::Error::Api(status)) => status.message,
            other => panic!("{starts_at} {ends_at}: {other:?}"),
        };
        for field in fields {
            let advice = format!("spec.{field}: it must be a time in RFC 3339");
            assert!(refused.contains(&advice), "{starts_at} {ends_at}: {refused}");
        }
    }
    let mut offset = valid_manifest("offset");
    set(&mut offset, "/startsAt", json!("2030-01-01T11:00:00.123456789+01:00"));
    create(&sales, offset).await.expect("an offset and a fraction");
}

#[tokio::test]
async fn a_name_that_is_too_long_is_refused() {
    let sales = sales(&client().await);
    let refused = create(&sales, valid_manifest(&"n".repeat(64)))
        .await
        .expect_err("64 characters")
        .to_string();
    assert!(refused.contains("metadata.name"), "{refused}");
    create(&sales, valid_manifest(&"n".repeat(63)))
        .await
        .expect("63 characters");
}

/// After preheating, item, access and start are fixed, and the stock and the units in one order can only rise. Until the end, endsAt can change too.
/// Demand, cool-down and suspension can always change.
#[tokio::test]
async fn after_preheating_only_mutable_fields_can_be_changed() {
    let sales = sales(&client().await);
    let name = format!("edits-{}", rand::random::<u32>());
    let params = PostParams::default();
    sales
        .create(&params, &object(valid_manifest(&name)))
        .await
        .expect("created");
    let change = async |pointer: &str, value: Value| {
        let mut spec = json!({"spec": {}});
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        match parent {
            "" => spec["spec"][key] = value,
            parent => spec["spec"][&parent[1..]] = json!({key: value}),
        }
        sales.patch(&name, &PatchParams::default(), &Patch::Merge(spec)).await
    };
    // Before preheating, all fields but the class can change.
    change("/stock", json!(11)).await.expect("stock");
    change("/maxPerOrder", json!(1)).await.expect("maxPerOrder");
    change("/maxPerOrder", json!(2)).await.expect("maxPerOrder");
    for access in [json!({"issuer": "other"}), Value::Null, json!({"issuer": "main"})] {
        change("/access", access).await.expect("access");
    }
    change("/limitPerBuyer", json!(3)).await.expect("limitPerBuyer");
    let tier = |name: &str, limit: i32, reserved: i32| json!({"name": name, "values": [name], "opensBeforeSeconds": 60, "limitPerBuyer": limit, "reserved": reserved});
    for tiers in [
        json!([tier("silver", 1, 1)]),
        Value::Null,
        json!([tier("gold", 1, 2), tier("silver", 1, 0)]),
    ] {
        change("/tiers", tiers).await.expect("tiers");
    }
    change("/reservedForGeneral", json!(3))
        .await
        .expect("reservedForGeneral");
    change("/startsAt", json!("2030-01-01T10:00:01Z"))
        .await
        .expect("startsAt");
    let refused = change("/className", json!("other"))
        .await
        .expect_err("className")
        .to_string();
    assert!(refused.contains("className"), "{refused}");

    let status = json!({"status": {"preheatedAt": "2030-01-01T09:59:00Z"}});
    sales
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .expect("preheated");
    for (pointer, value, field) in [
        ("/stock", json!(10), "spec.stock"),
        ("/maxPerOrder", json!(1), "spec.maxPerOrder: it can only rise"),
        ("/maxPerOrder", Value::Null, "spec.maxPerOrder: it can only rise"),
        (
            "/ordersEverMax",
            json!(11),
            "spec.ordersEverMax: it must be greater than spec.stock",
        ),
        (
            "/stock",
            json!(100),
            "spec.ordersEverMax: it must be greater than spec.stock",
        ),
        ("/startsAt", json!("2030-01-01T10:00:02Z"), "spec.startsAt"),
        (
            "/access",
            json!({"issuer": "other"}),
            "spec.access: it can't change once",
        ),
        ("/access", Value::Null, "spec.access: it can't change once"),
        ("/tiers", Value::Null, "spec."),
        ("/tiers", json!([tier("gold", 1, 2)]), "spec.tiers: only limitPerBuyer"),
        (
            "/tiers",
            json!([tier("silver", 1, 0), tier("gold", 1, 2)]),
            "spec.tiers: only limitPerBuyer",
        ),
        (
            "/tiers",
            json!([tier("gold", 1, 1), tier("silver", 1, 0)]),
            "spec.tiers: only limitPerBuyer",
        ),
        (
            "/tiers",
            json!([tier("gold", 1, 2), tier("bronze", 1, 0)]),
            "spec.tiers: only limitPerBuyer",
        ),
        ("/reservedForGeneral", json!(4), "spec.tiers: only limitPerBuyer"),
        ("/reservedForGeneral", Value::Null, "spec.tiers: only limitPerBuyer"),
        ("/item/price", json!("1.00"), "spec.item"),
        ("/item/description", Value::Null, "spec.item"),
        ("/item/id", json!(2), "spec.item"),
    ] {
        let refused = change(pointer, value).await.expect_err(pointer).to_string();
        assert!(refused.contains(field), "{pointer}: {refused}");
    }
    for (pointer, value) in [
        ("/stock", json!(12)),
        ("/maxPerOrder", json!(5)),
        ("/ordersEverMax", json!(13)),
        ("/ordersEverMax", Value::Null),
        ("/tiers", json!([tier("gold", 9, 2), tier("silver", 1, 0)])),
        ("/tiers", json!([tier("gold", 1, 2), tier("silver", 1, 0)])),
        ("/limitPerBuyer", json!(1)),
        ("/limitPerBuyer", Value::Null),
        ("/limitPerBuyer", json!(5)),
        ("/endsAt", json!("2030-01-01T12:00:00Z")),
        ("/suspend", json!(true)),
        ("/demand/apiReplicas", json!(3)),
        ("/coolDownSeconds", json!(1)),
    ] {
        change(pointer, value).await.expect(pointer);
    }

    let status = json!({"status": {"phase": "Ended"}});
    sales
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await
        .expect("ended");
    let refused = change("/endsAt", json!("2030-01-01T13:00:00Z"))
        .await
        .expect_err("endsAt")
        .to_string();
    assert!(refused.contains("spec.endsAt"), "{refused}");
    let refused = change("/stock", json!(13)).await.expect_err("stock").to_string();
    assert!(refused.contains("spec.stock"), "{refused}");
    change("/coolDownSeconds", json!(2)).await.expect("coolDownSeconds");
    sales.delete(&name, &Default::default()).await.expect("deleted");
}
