//! What holders of biometrics have to be able to rely on, asked of a running server and of the command line.

mod at_rest;
mod audit;
mod backup;
mod consent;
mod doubt;
mod erasure;
mod hostile;
mod served;
mod sync;
mod tls;

use serde_json::{Value, json};

use crate::support::app::TestApp;

/// Makes a key and gives its id and token.
fn key(app: &TestApp, admin: Option<&str>, body: &Value) -> (String, String) {
    let made = app.ask("POST", "/v1/keys", admin, Some(body)).ok();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("key"), text("token"))
}

fn admin(app: &TestApp) -> (String, String) {
    key(app, None, &json!({"name": "ops", "scopes": ["admin"]}))
}
