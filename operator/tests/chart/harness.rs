//! helm, kubectl, and a namespace on a real API server.
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize as _;
use serde_json::{Value, json};

/// The programs of a release, and its Job.
pub const COMPONENTS: [&str; 4] = ["operator", "api", "worker", "migrate"];

/// Cargo names the package folder at run time, since several checkouts may share one build.
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    PathBuf::from(package).join("..")
}

pub fn chart() -> String {
    repository().join("helm/seckill").display().to_string()
}

fn run(program: &str, default: &str, args: &[&str], input: &str) -> Result<String, String> {
    let program = std::env::var_os(program).map_or(PathBuf::from(default), PathBuf::from);
    let mut child = Command::new(&program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask test integration`", program.display()));
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("ends");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(errors),
    }
}

/// Runs helm with these values on its standard input, for `-f -`.
pub fn helm(args: &[&str], values: &Value) -> Result<String, String> {
    run("SECKILL_HELM", "helm", args, &values.to_string())
}

pub fn kubectl(args: &[&str], input: &str) -> Result<String, String> {
    run("SECKILL_KUBECTL", "kubectl", args, input)
}

/// The required values, with these in addition.
pub fn values(more: Value) -> Value {
    let mut values = json!({
        "redis": {"url": "redis://redis:6379"},
        "kafka": {"brokers": "kafka:9092"},
        "mysql": {"url": "mysql://seckill:password@mysql:3306/seckill"},
        "orderNumberKeys": {"keys": "1:00112233445566778899aabbccddeeff"},
        "buyerKey": {"key": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"},
    });
    merge(&mut values, more);
    values
}

pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Renders without a cluster. `more` is added to the required values.
pub fn try_template(release: &str, namespace: &str, more: Value) -> Result<Vec<Value>, String> {
    let args = ["template", release, &chart(), "-n", namespace, "-f", "-"];
    helm(&args, &values(more)).map(|text| objects(&text))
}

pub fn template(more: Value) -> Vec<Value> {
    try_template("seckill", "shop", more).unwrap_or_else(|error| panic!("{error}"))
}

/// The objects of a manifest.
pub fn objects(manifest: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(manifest);
    let objects = documents.map(|document| Value::deserialize(document).expect("YAML"));
    objects.filter(|object| !object.is_null()).collect()
}

/// `Kind/name` of an object.
pub fn id(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str();
    let name = name.unwrap_or_else(|| panic!("no name: {object}"));
    format!("{}/{name}", object["kind"].as_str().expect("a kind"))
}

pub fn find<'a>(objects: &'a [Value], wanted: &str) -> Option<&'a Value> {
    objects.iter().find(|object| id(object) == wanted)
}

pub fn get<'a>(objects: &'a [Value], wanted: &str) -> &'a Value {
    let found = find(objects, wanted);
    found.unwrap_or_else(|| panic!("no {wanted} in {:?}", objects.iter().map(id).collect::<Vec<_>>()))
}

/// The Deployment of a program, or the migrate Job.
pub fn workload<'a>(objects: &'a [Value], component: &str) -> &'a Value {
    let of_component = |object: &&Value| {
        let kind = object["kind"] == "Deployment" || object["kind"] == "Job";
        kind && object["metadata"]["labels"]["app.kubernetes.io/component"] == component
    };
    let found = objects.iter().find(of_component);
    found.unwrap_or_else(|| panic!("no workload of {component}"))
}

/// The template of the pods of a component.
pub fn pod<'a>(objects: &'a [Value], component: &str) -> &'a Value {
    &workload(objects, component)["spec"]["template"]
}

pub fn container<'a>(objects: &'a [Value], component: &str) -> &'a Value {
    &pod(objects, component)["spec"]["containers"][0]
}

/// The value of an environment variable; panics if there is not exactly one of this name.
pub fn env<'a>(objects: &'a [Value], component: &str, name: &str) -> &'a Value {
    let all = container(objects, component)["env"].as_array().expect("a list");
    let found: Vec<_> = all.iter().filter(|variable| variable["name"] == name).collect();
    let [one] = found[..] else {
        panic!("{component}: {name}: {found:?}")
    };
    &one["value"]
}

/// Panics if a field has no value, which is how a value that is missing is rendered.
pub fn assert_no_empty_fields(objects: &[Value]) {
    fn check(path: &str, value: &Value) {
        match value {
            Value::Null => panic!("{path} has no value"),
            Value::String(text) => assert!(
                !text.contains("<nil>") && !text.contains("%!"),
                "{path} was rendered as {text}"
            ),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .for_each(|(i, item)| check(&format!("{path}/{i}"), item)),
            Value::Object(fields) => fields
                .iter()
                .for_each(|(name, field)| check(&format!("{path}/{name}"), field)),
            Value::Bool(_) | Value::Number(_) => {}
        }
    }
    for object in objects {
        let object_id = id(object);
        check(&object_id, object);
        let containers = &object["spec"]["template"]["spec"]["containers"];
        for variable in containers[0]["env"].as_array().into_iter().flatten() {
            // Lists that may be empty: all namespaces, and no issuers.
            let lists = ["SECKILL_WATCH_NAMESPACES", "SECKILL_ISSUERS"];
            let may_be_empty = lists.iter().any(|name| variable["name"] == *name);
            assert!(
                may_be_empty || variable["value"] != "",
                "{object_id}: {variable} is empty"
            );
        }
    }
}

/// A namespace that is deleted at the end of the test.
pub struct Namespace(pub String);

impl Namespace {
    pub fn create() -> Self {
        Self::with_labels(json!({}))
    }

    pub fn with_labels(labels: Value) -> Self {
        let name = format!("seckill-chart-{:08x}", rand::random::<u32>());
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        kubectl(&["create", "-f", "-"], &namespace.to_string()).expect("created");
        Namespace(name)
    }

    /// Sends the objects to the API server, which validates them as if they were created, and creates none. It does not know
    /// the objects of the Prometheus operator and of the Gateway API.
    pub fn dry_run(&self, objects: &[Value]) -> Result<String, String> {
        self.apply(objects, &["--dry-run=server"])
    }

    pub fn apply(&self, objects: &[Value], more: &[&str]) -> Result<String, String> {
        let unknown = ["monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1"];
        let known = |object: &&Value| unknown.iter().all(|version| object["apiVersion"] != **version);
        let items: Vec<_> = objects.iter().filter(known).map(without_admission).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        let apply = ["apply", "-n", &self.0, "-f", "-", "--validate=strict"];
        kubectl(&[&apply, more].concat(), &list)
    }
}

/// The API server admits the Pod of `helm test` only if its ServiceAccount exists, which a dry run does not create. It checks the
/// same fields in a PodTemplate.
fn without_admission(object: &Value) -> Value {
    if object["metadata"]["annotations"]["helm.sh/hook"] != "test" {
        return object.clone();
    }
    json!({
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": object["metadata"]["name"]},
        "template": {"metadata": {"labels": object["metadata"]["labels"]}, "spec": object["spec"]},
    })
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = kubectl(&["delete", "namespace", &self.0, "--wait=false"], "");
    }
}

/// A folder that is removed at the end of the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("seckill-chart-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&folder).expect("a new folder");
        Folder(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn text(&self) -> String {
        self.0.display().to_string()
    }

    pub fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.join(file), text).expect("written");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
