//! `cargo xtask up`: starts the environment.
use std::fs;

use anyhow::Result;

use crate::environment::Environment;
use crate::sandbox::Sandbox;
use crate::scope::Scope;
use crate::{cluster, servers, tools};

/// Starts everything in the scope that is not running yet.
pub fn up(scope: Scope) -> Result<Environment> {
    let tools = match scope {
        Scope::Stores => tools::stores()?,
        Scope::Servers | Scope::Cluster => tools::get()?,
    };
    let state = Environment::state_folder()?;
    fs::create_dir_all(&state)?;
    let sandbox = Sandbox::of(&state, &Environment::default_state_folder()?).create()?;
    let env = Environment {
        node_address: sandbox.node_address().to_owned(),
        sandbox,
        servers: tools.servers.clone(),
        kubectl: tools.cluster.join("kubectl"),
        helm: tools.cluster.join("helm"),
        kubeconfig: state.join("kubeconfig"),
        redis_port: 6379,
        mysql_port: 3306,
        kafka_port: 9092,
        ingress_url: format!("http://127.0.0.1:{}", cluster::INGRESS_PORT),
        ingress_class: "contour".to_owned(),
        versions: tools.versions()?,
        state,
    };
    env.save()?;
    servers::start(&env, &tools, scope)?;
    if scope == Scope::Cluster {
        cluster::start(&env, &tools)?;
    }
    Ok(env)
}
