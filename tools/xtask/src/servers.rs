//! Starts Redis, MySQL, Kafka, etcd and the Kubernetes API server: what the integration tests need.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::step;
use crate::certificates::Certificates;
use crate::command::output;
use crate::environment::{
    CONTEXT, Environment, KAFKA_PASSWORD, KAFKA_TLS_PORTS, KAFKA_USER, MYSQL_PASSWORD, REDIS_PASSWORD, REDIS_TLS_PORT,
};
use crate::process::Processes;
use crate::scope::Scope;
use crate::tools::{self, Alternatives, Tools};
use crate::workspace;

/// Time limit for a server to become ready. It is long, for a machine that is busy with builds.
const START_TIMEOUT: Duration = Duration::from_secs(120);

const MARIADB_PORT: u16 = 3307;
const VALKEY_PORT: u16 = 6380;
const KEYCLOAK_PORT: u16 = 8180;
/// The administrator `admin` of a Keycloak that only this machine can reach.
const KEYCLOAK_PASSWORD: &str = "seckill";

pub fn start(env: &Environment, tools: &Tools, scope: Scope) -> Result<()> {
    let processes = Processes::new(&env.state)?;
    let servers = Servers {
        env,
        tools,
        processes: &processes,
        certificates: Certificates::create(&env.state, &env.node_address)?,
    };
    let has_api_server = scope != Scope::Stores;
    let title = match has_api_server {
        true => "Redis, MySQL, Kafka and the Kubernetes API server",
        false => "Redis, MySQL and Kafka",
    };
    step(title, "servers", |_| {
        servers.start_redis()?;
        servers.start_mysql()?;
        servers.start_kafka()?;
        if has_api_server {
            servers.start_apiserver()?;
        }
        servers.wait_for_redis()?;
        servers.wait_for_mysql()?;
        servers.wait_for_kafka()?;
        match has_api_server {
            true => servers.wait_for_apiserver(),
            false => Ok(()),
        }
    })
}

/// Starts MariaDB and Valkey beside MySQL and Redis. Returns the variables of the tests that then use them instead.
pub fn start_alternatives(env: &Environment, programs: &Alternatives) -> Result<Vec<(&'static str, String)>> {
    let processes = Processes::new(&env.state)?;
    step("MariaDB and Valkey", "alternatives", |_| {
        start_mariadb(env, &programs.mariadb, &processes)?;
        start_valkey(env, &programs.valkey, &processes)
    })?;
    let address = &env.node_address;
    Ok(vec![
        (
            "SECKILL_TEST_MYSQL_URL",
            format!("mysql://root:{MYSQL_PASSWORD}@{address}:{MARIADB_PORT}/seckill_test"),
        ),
        (
            "SECKILL_TEST_REDIS_URL",
            format!("redis://:{REDIS_PASSWORD}@{address}:{VALKEY_PORT}"),
        ),
        (
            "SECKILL_TEST_REDIS_SERVER",
            programs.valkey.join("valkey-server").display().to_string(),
        ),
    ])
}

fn start_mariadb(env: &Environment, programs: &Path, processes: &Processes) -> Result<()> {
    let folder = folder(&env.state, "mariadb")?;
    let data = folder.join("data");
    let share = programs.join("tree/usr/share/mysql");
    let mariadbd = |mut command: Command, data: &Path| {
        command
            .args(["--no-defaults", "--user=root"])
            .arg(format!("--basedir={}", programs.join("tree/usr").display()))
            .arg(format!("--lc-messages-dir={}", share.display()))
            .arg(format!("--character-sets-dir={}", share.join("charsets").display()))
            .arg(format!("--datadir={}", data.display()));
        command
    };
    if !data.exists() {
        // Created under another name, so that an interrupted initialization is not used.
        let partial = folder.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        // As mariadb-install-db does it, which knows nothing of the tree's loader.
        let mut sql = "CREATE DATABASE mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n".to_owned();
        for file in [
            "mysql_system_tables",
            "mysql_performance_tables",
            "mysql_system_tables_data",
        ] {
            sql += &fs::read_to_string(share.join(file).with_extension("sql"))?;
        }
        let script = folder.join("bootstrap.sql");
        fs::write(&script, sql)?;
        let mut command = mariadbd(Command::new(programs.join("mariadbd")), &partial);
        command.arg("--bootstrap").stdin(fs::File::open(script)?);
        let bootstrap = command.output()?;
        ensure!(
            bootstrap.status.success(),
            "mariadbd --bootstrap: {}",
            String::from_utf8_lossy(&bootstrap.stderr)
        );
        fs::rename(partial, &data)?;
    }
    let users = folder.join("users.sql");
    fs::write(&users, users_sql())?;
    let mut command = mariadbd(env.sandbox.command(programs.join("mariadbd")), &data);
    command
        .arg(format!("--port={MARIADB_PORT}"))
        .arg(format!("--bind-address={}", env.node_address))
        .arg(format!("--socket={}/mysql.sock", folder.display()))
        .arg(format!("--pid-file={}/mysql.pid", folder.display()))
        .arg(format!("--init-file={}", users.display()))
        // As in MySQL, where it is the default. A test lists connections by it.
        .arg("--performance-schema=ON")
        .args(["--skip-name-resolve", "--max-connections=500"]);
    processes.start("mariadb", &mut command)?;
    processes.wait("mariadb", START_TIMEOUT, || {
        let port = MARIADB_PORT.to_string();
        let mut client = env.sandbox.command(programs.join("mariadb"));
        client
            .args([
                "--no-defaults",
                "-h",
                &env.node_address,
                "-P",
                &port,
                "-uroot",
                "-e",
                "SELECT 1",
            ])
            .env("MYSQL_PWD", MYSQL_PASSWORD);
        output(&mut client).map(drop)
    })
}

fn start_valkey(env: &Environment, programs: &Path, processes: &Processes) -> Result<()> {
    let port = VALKEY_PORT.to_string();
    let mut command = env.sandbox.command(programs.join("valkey-server"));
    command
        .args(["--port", &port, "--bind", &env.node_address])
        .args(["--requirepass", REDIS_PASSWORD, "--appendonly", "yes", "--save", ""])
        .args(["--maxmemory-policy", "noeviction", "--dir"])
        .arg(folder(&env.state, "valkey")?);
    processes.start("valkey", &mut command)?;
    processes.wait("valkey", START_TIMEOUT, || {
        let mut client = env.sandbox.command(programs.join("valkey-cli"));
        client
            .args(["-h", &env.node_address, "-p", &port, "ping"])
            .env("REDISCLI_AUTH", REDIS_PASSWORD);
        let reply = output(&mut client)?;
        ensure!(reply.trim() == "PONG", "unexpected reply {reply:?}");
        Ok(())
    })
}

/// A running Keycloak.
pub struct Keycloak {
    pub url: String,
    /// Has kcadm.sh.
    programs: PathBuf,
}

impl Keycloak {
    /// The variable of the tests that use it. They stop it and start it again by these commands.
    pub fn variable(&self) -> Result<(&'static str, String)> {
        let xtask = std::env::current_exe()?;
        let description = serde_json::json!({
            "url": self.url,
            "password": KEYCLOAK_PASSWORD,
            "programs": self.programs,
            "start": [xtask, "keycloak"],
            "stop": [xtask, "keycloak", "--stop"],
        });
        Ok(("SECKILL_KEYCLOAK", description.to_string()))
    }
}

/// Starts Keycloak, with the realm of examples/keycloak. Pods reach it at the same address as this machine.
pub fn start_keycloak(env: &Environment) -> Result<Keycloak> {
    let home = tools::keycloak()?;
    let processes = Processes::new(&env.state)?;
    let url = format!("http://{}:{KEYCLOAK_PORT}", env.node_address);
    let programs = home.join("bin");
    let database = folder(&env.state, "keycloak")?.join("keycloak");
    step("Keycloak", "keycloak", |_| {
        let mut command = env.sandbox.command(programs.join("kc.sh"));
        command
            .args(["start", "--optimized", "--http-enabled=true"])
            .arg(format!("--hostname={url}"))
            .arg(format!("--http-host={}", env.node_address))
            .arg(format!("--http-port={KEYCLOAK_PORT}"))
            .arg(format!(
                "--db-url=jdbc:h2:file:{};NON_KEYWORDS=VALUE",
                database.display()
            ))
            .env("JAVA_OPTS_KC_HEAP", "-Xmx512m")
            .env("KC_BOOTSTRAP_ADMIN_USERNAME", "admin")
            .env("KC_BOOTSTRAP_ADMIN_PASSWORD", KEYCLOAK_PASSWORD);
        processes.start("keycloak", &mut command)?;
        let answers = |realm: &str| {
            let mut curl = env.sandbox.command("curl");
            output(curl.args(["-sf", "-m", "5", &format!("{url}/realms/{realm}")])).map(drop)
        };
        processes.wait("keycloak", START_TIMEOUT, || answers("master"))?;
        if answers("shop").is_err() {
            let mut import = env.sandbox.command(programs.join("kcadm.sh"));
            import
                .args(["create", "realms", "--no-config", "--server", &url, "--realm", "master"])
                .args(["--user", "admin", "--password", KEYCLOAK_PASSWORD, "-f"])
                .arg(workspace::folder()?.join("examples/keycloak/shop-realm.json"));
            output(&mut import)?;
        }
        Ok(())
    })?;
    Ok(Keycloak { url, programs })
}

pub fn stop_keycloak(env: &Environment) -> Result<()> {
    Processes::new(&env.state)?.stop("keycloak")
}

struct Servers<'a> {
    env: &'a Environment,
    tools: &'a Tools,
    processes: &'a Processes,
    certificates: Certificates,
}

impl Servers<'_> {
    fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.env.sandbox.command(program)
    }

    fn start_redis(&self) -> Result<()> {
        let folder = folder(&self.env.state, "redis")?;
        let mut command = self.inside(self.tools.servers.join("redis-server"));
        let certificates = &self.certificates;
        command
            .args(["--port", &self.env.redis_port.to_string()])
            .args([
                "--tls-port",
                &REDIS_TLS_PORT.to_string(),
                "--tls-auth-clients",
                "optional",
            ])
            .arg("--tls-ca-cert-file")
            .arg(certificates.file("ca.crt"))
            .arg("--tls-cert-file")
            .arg(certificates.file("server.crt"))
            .arg("--tls-key-file")
            .arg(certificates.file("server.key"))
            .args(["--bind", &self.env.node_address, "--requirepass", REDIS_PASSWORD])
            .args([
                "--appendonly",
                "yes",
                "--save",
                "",
                "--maxmemory-policy",
                "noeviction",
                "--dir",
            ])
            .arg(folder);
        self.processes.start("redis", &mut command)?;
        Ok(())
    }

    fn wait_for_redis(&self) -> Result<()> {
        self.processes.wait("redis", START_TIMEOUT, || {
            let reply = output(
                self.inside(self.tools.servers.join("redis-cli"))
                    .args(["-h", &self.env.node_address, "-p", &self.env.redis_port.to_string()])
                    .args(["--no-auth-warning", "-a", REDIS_PASSWORD, "ping"]),
            )?;
            if reply.trim() == "PONG" {
                Ok(())
            } else {
                bail!("unexpected reply {reply:?}")
            }
        })
    }

    fn start_mysql(&self) -> Result<()> {
        let folder = folder(&self.env.state, "mysql")?;
        let data = folder.join("data");
        let mysqld = |mut command: Command| {
            command.args(mysqld_args(self.tools, &data));
            command
        };
        if !data.exists() {
            // Created under another name, so that an interrupted initialization is not used.
            let partial = folder.join("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            let mut command = mysqld(Command::new(self.tools.servers.join("mysqld")));
            output(
                command
                    .arg("--initialize-insecure")
                    .arg(format!("--datadir={}", partial.display())),
            )?;
            fs::rename(partial, &data)?;
        }
        let users = folder.join("users.sql");
        fs::write(&users, users_sql())?;
        let mut command = mysqld(self.inside(self.tools.servers.join("mysqld")));
        command
            .arg(format!("--port={}", self.env.mysql_port))
            .arg(format!("--bind-address={}", self.env.node_address))
            .arg(format!("--socket={}/mysql.sock", folder.display()))
            .arg(format!("--pid-file={}/mysql.pid", folder.display()))
            .arg(format!("--init-file={}", users.display()))
            .arg(format!("--ssl-ca={}", self.certificates.file("ca.crt").display()))
            .arg(format!("--ssl-cert={}", self.certificates.file("server.crt").display()))
            .arg(format!("--ssl-key={}", self.certificates.file("server.key").display()))
            // The namespace has no name server, so each lookup would time out.
            .arg("--skip-name-resolve")
            .args([
                "--mysqlx=OFF",
                "--max-connections=500",
                "--innodb-buffer-pool-size=512M",
            ]);
        self.processes.start("mysql", &mut command)?;
        Ok(())
    }

    fn wait_for_mysql(&self) -> Result<()> {
        self.processes.wait("mysql", START_TIMEOUT, || {
            output(
                self.inside(self.tools.servers.join("mysql"))
                    .args([
                        "-h",
                        &self.env.node_address,
                        "-P",
                        &self.env.mysql_port.to_string(),
                        "-uroot",
                        "-e",
                        "SELECT 1",
                    ])
                    .env("MYSQL_PWD", MYSQL_PASSWORD),
            )
            .map(drop)
        })
    }

    fn start_kafka(&self) -> Result<()> {
        let folder = folder(&self.env.state, "kafka")?;
        let data = folder.join("data");
        let properties = folder.join("server.properties");
        let (address, port) = (&self.env.node_address, self.env.kafka_port);
        let [tls_port, login_port] = KAFKA_TLS_PORTS;
        let (pair, ca) = (self.certificates.file("server.pem"), self.certificates.file("ca.crt"));
        let (pair, ca) = (pair.display(), ca.display());
        fs::write(
            &properties,
            format!(
                "process.roles=broker,controller\n\
                 node.id=1\n\
                 controller.quorum.bootstrap.servers={address}:9093\n\
                 listeners=PLAINTEXT://{address}:{port},SSL://{address}:{tls_port},SASL_SSL://{address}:{login_port},\
                 CONTROLLER://{address}:9093\n\
                 advertised.listeners=PLAINTEXT://{address}:{port},SSL://{address}:{tls_port},\
                 SASL_SSL://{address}:{login_port},CONTROLLER://{address}:9093\n\
                 controller.listener.names=CONTROLLER\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
                 ssl.keystore.type=PEM\nssl.keystore.location={pair}\n\
                 ssl.truststore.type=PEM\nssl.truststore.location={ca}\n\
                 listener.name.ssl.ssl.client.auth=required\n\
                 sasl.enabled.mechanisms=SCRAM-SHA-512\n\
                 listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
                 org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
                 authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                 super.users=User:ANONYMOUS\n\
                 log.dirs={}\n\
                 auto.create.topics.enable=false\n\
                 offsets.topic.replication.factor=1\n\
                 offsets.topic.num.partitions=4\n\
                 transaction.state.log.replication.factor=1\n\
                 transaction.state.log.min.isr=1\n\
                 group.initial.rebalance.delay.ms=0\n",
                data.display()
            ),
        )?;
        let java = |mut command: Command, class: &str| {
            command.args(kafka_java(self.tools, class));
            command
        };
        if !data.exists() {
            let mut command = java(Command::new("java"), "kafka.tools.StorageTool");
            command.args(["format", "-t", "c2Vja2lsbC1jbHVzdGVyMQ", "--standalone"]);
            for (user, password) in KAFKA_PROGRAM_USERS
                .map(|user| (user, user))
                .into_iter()
                .chain([(KAFKA_USER, KAFKA_PASSWORD)])
            {
                command.arg(format!("--add-scram=SCRAM-SHA-512=[name={user},password={password}]"));
            }
            output(command.arg("-c").arg(&properties))?;
        }
        // The login looks up the names of both ends. The namespace has no name server, so each lookup would time out.
        let hosts = folder.join("hosts");
        fs::write(&hosts, format!("127.0.0.1 localhost\n{address} kafka\n"))?;
        let mut java_with_hosts = self.inside("java");
        java_with_hosts.arg(format!("-Djdk.net.hosts.file={}", hosts.display()));
        let mut command = java(java_with_hosts, "kafka.Kafka");
        self.processes.start("kafka", command.arg(properties))?;
        Ok(())
    }

    fn wait_for_kafka(&self) -> Result<()> {
        // The listener opens when the broker serves. Starting a Kafka client would take longer than this check.
        let port = format!(":{:04X}", self.env.kafka_port);
        self.processes.wait("kafka", START_TIMEOUT, || {
            let sockets = output(self.inside("cat").args(["/proc/net/tcp", "/proc/net/tcp6"]))?;
            let listens = sockets.lines().any(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&"0A")
            });
            if listens {
                Ok(())
            } else {
                bail!("the port is not open yet")
            }
        })
    }

    fn start_apiserver(&self) -> Result<()> {
        let etcd = folder(&self.env.state, "etcd")?;
        let mut command = self.inside(self.tools.servers.join("etcd"));
        command.args(etcd_args(&etcd, "127.0.0.1"));
        self.processes.start("etcd", &mut command)?;

        let apiserver = ApiServer {
            folder: folder(&self.env.state, "apiserver")?,
            address: self.env.node_address.clone(),
            port: 6443,
        };
        let mut command = self.inside(self.tools.cluster.join("kube-apiserver"));
        command.args(apiserver.args("127.0.0.1")?).args([
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
        ]);
        self.processes.start("kube-apiserver", &mut command)?;
        fs::write(&self.env.kubeconfig, apiserver.kubeconfig()?)?;
        Ok(())
    }

    fn wait_for_apiserver(&self) -> Result<()> {
        self.processes.wait("kube-apiserver", START_TIMEOUT, || {
            output(self.env.command(&self.env.kubectl).args(["get", "--raw", "/readyz"])).map(drop)
        })?;
        // The controllers empty deleted namespaces and create service accounts.
        let folder = self.env.state.join("apiserver");
        let mut command = self.inside(self.tools.cluster.join("kube-controller-manager"));
        command
            .arg(format!("--kubeconfig={}", self.env.kubeconfig.display()))
            .arg(format!(
                "--service-account-private-key-file={}/sa.key",
                folder.display()
            ))
            .arg(format!("--root-ca-file={}/apiserver.crt", folder.display()))
            .args([
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--cluster-cidr=10.244.0.0/16",
            ])
            .arg("--bind-address=127.0.0.1");
        self.processes.start("kube-controller-manager", &mut command)?;
        Ok(())
    }
}

/// The arguments of etcd. Clients reach it at port 2379 of the address.
pub fn etcd_args(data: &Path, address: &str) -> Vec<String> {
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls=http://{address}:2379"),
        format!("--advertise-client-urls=http://{address}:2379"),
        format!("--listen-peer-urls=http://{address}:2380"),
        // The cluster is for tests only, so durability is not needed.
        "--unsafe-no-fsync".into(),
    ]
}

/// A Kubernetes API server, with one administrator.
pub struct ApiServer {
    /// The folder of its keys, certificate and token.
    pub folder: PathBuf,
    pub address: String,
    pub port: u16,
}

impl ApiServer {
    /// Creates the keys and the token, and returns the arguments that every API server here has.
    pub fn args(&self, etcd: &str) -> Result<Vec<String>> {
        let folder = self.folder.display();
        let key = self.folder.join("sa.key");
        if !key.exists() {
            output(Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048"))?;
            output(
                Command::new("openssl")
                    .args(["rsa", "-pubout", "-in"])
                    .arg(&key)
                    .arg("-out")
                    .arg(self.folder.join("sa.pub")),
            )?;
        }
        let tokens = self.tokens();
        if !tokens.exists() {
            let token = output(Command::new("openssl").args(["rand", "-hex", "24"]))?;
            fs::write(&tokens, format!("{},admin,admin,\"system:masters\"\n", token.trim()))?;
        }
        Ok(vec![
            format!("--cert-dir={folder}"),
            format!("--token-auth-file={}", tokens.display()),
            format!("--service-account-key-file={folder}/sa.pub"),
            format!("--service-account-signing-key-file={}", key.display()),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            format!("--secure-port={}", self.port),
            format!("--etcd-servers=http://{etcd}:2379"),
        ])
    }

    fn tokens(&self) -> PathBuf {
        self.folder.join("tokens.csv")
    }

    /// The kubeconfig of the administrator. The API server creates the certificate when it starts.
    pub fn kubeconfig(&self) -> Result<String> {
        let tokens = fs::read_to_string(self.tokens())?;
        let token = tokens.split(',').next().context("the token file is empty")?;
        Ok(format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: seckill, cluster: {{server: \"https://{}:{}\", \
             certificate-authority: \"{}/apiserver.crt\"}}}}]\n\
             users: [{{name: admin, user: {{token: {token}}}}}]\n\
             contexts: [{{name: {CONTEXT}, context: {{cluster: seckill, user: admin}}}}]\n\
             current-context: {CONTEXT}\n",
            self.address,
            self.port,
            self.folder.display()
        ))
    }
}

/// The arguments that mysqld needs to run from its Debian tree.
pub fn mysqld_args(tools: &Tools, data: &Path) -> Vec<String> {
    let tree = tools.servers.join("tree/usr");
    vec![
        "--no-defaults".into(),
        format!("--basedir={}", tree.display()),
        format!("--lc-messages-dir={}/share/mysql", tree.display()),
        format!("--character-sets-dir={}/share/mysql/charsets", tree.display()),
        format!("--plugin-dir={}/lib/mysql/plugin", tree.display()),
        format!("--datadir={}", data.display()),
        "--user=root".into(),
        "--secure-file-priv=NULL".into(),
    ]
}

/// The arguments of `java` that run a class of Kafka.
pub fn kafka_java(tools: &Tools, class: &str) -> Vec<String> {
    let path = format!("{}/libs/*", tools.kafka.display());
    vec!["-Xmx768m".into(), "-cp".into(), path, class.into()]
}

/// The users of Kafka for the programs. Their passwords are their names.
pub const KAFKA_PROGRAM_USERS: [&str; 4] = ["operator", "api", "worker", "migrate"];
/// A user of MySQL that may only log in.
const MYSQL_USER_WITHOUT_RIGHTS: &str = "without-rights";

/// Creates `root` for tests, and the users of the chart's programs with the rights from docs/installation.md.
fn users_sql() -> String {
    let mut sql = String::from("CREATE DATABASE IF NOT EXISTS seckill;\nCREATE DATABASE IF NOT EXISTS seckill_test;\n");
    for user in [
        "root",
        "migrate",
        "operator",
        "api",
        "worker",
        MYSQL_USER_WITHOUT_RIGHTS,
    ] {
        sql += &format!("CREATE USER IF NOT EXISTS '{user}'@'%' IDENTIFIED BY '{MYSQL_PASSWORD}';\n");
    }
    sql += "GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;\n";
    sql += include_str!("../../../examples/grants.sql");
    // Each statement of an init file must be on one line.
    sql
}

/// Creates the folder of a server.
fn folder(state: &Path, name: &str) -> Result<std::path::PathBuf> {
    let folder = state.join(name);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
