use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::config::{ServerArgs, StoreArgs};
use crate::domain::{DAY_MS, GalleryId, Scope, now_ms};
use crate::service::{
    KeyId, KeySource, KeyView, NewKey, NewKeyView, OfflineKeys, change_master_key,
};

use super::offline::{self, Absent};
use super::remote::Remote;
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and print it; it is not shown again
    Create {
        /// What to call it: who holds it, for what
        #[arg(long)]
        name: String,
        /// What it allows: identify, embed, read, enrol, erase, train, deploy, monitor, admin
        #[arg(long = "scope", required = true, value_delimiter = ',', value_name = "SCOPE")]
        scopes: Vec<Scope>,
        /// Only for this gallery; may be repeated [default: all]
        #[arg(long = "gallery", value_delimiter = ',', value_name = "GALLERY")]
        galleries: Vec<GalleryId>,
        /// When it expires, in days from now [default: never]
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
        expires_days: Option<u32>,
        #[command(flatten)]
        at: At,
    },
    /// List the keys
    List {
        #[command(flatten)]
        at: At,
    },
    /// Have a key let nobody in any more
    Revoke {
        /// The key's id: the part of the token between the underscores
        key: KeyId,
        #[command(flatten)]
        at: At,
    },
    /// Have another master key open the store; the one before opens it no more. The server must be stopped
    RotateMaster {
        /// File with the new key; made if it is not there
        #[arg(long, value_name = "FILE", required_unless_present = "new_master_key_command")]
        new_master_key_file: Option<PathBuf>,
        /// Command that prints the new key
        #[arg(long, value_name = "COMMAND", conflicts_with = "new_master_key_file")]
        new_master_key_command: Option<String>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Give a key another secret and print it
    Rotate {
        /// The key's id: the part of the token between the underscores
        key: KeyId,
        /// How long the secret before is still taken, in seconds
        #[arg(long, default_value_t = 0, value_name = "S")]
        overlap_s: u64,
        #[command(flatten)]
        at: At,
    },
}

/// Where the keys are kept, and how to print.
#[derive(Debug, clap::Args)]
struct At {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    remote: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl At {
    /// Only the first key may make a store: see [`OfflineKeys::open`].
    fn offline(&self, absent: Absent) -> Result<OfflineKeys, Failure> {
        absent.check(&self.store)?;
        let source = offline::master_key(&self.store);
        let (keys, notices) = OfflineKeys::open(&self.store.data_dir, &source)?;
        notices.iter().for_each(|notice| note!("note: {notice}"));
        Ok(keys)
    }

    fn remote(&self) -> Result<Option<Remote>, Failure> {
        let ServerArgs { server, key } = &self.remote;
        server.as_deref().map(|url| Remote::new(url, key)).transpose()
    }

    fn print(&self, made: &NewKeyView) -> Result<(), Failure> {
        if self.json {
            return output::json(made);
        }
        note!("key {}, shown this once:", made.key.key);
        say!("{}", made.token)
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    Ok(serde_json::from_value(answer)?)
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.action {
        Action::Create { name, scopes, galleries, expires_days, at } => {
            let named: BTreeSet<GalleryId> = galleries.iter().cloned().collect();
            let galleries = (!named.is_empty()).then_some(named);
            let expires_at_ms = expires_days.map(|days| now_ms() + u64::from(days) * DAY_MS);
            at.print(&match at.remote()? {
                Some(remote) => read(remote.post(
                    "/v1/keys",
                    &json!({
                        "name": name,
                        "scopes": scopes,
                        "galleries": galleries,
                        "expires_at_ms": expires_at_ms,
                    }),
                )?)?,
                None => at.offline(Absent::Make)?.create(NewKey {
                    name: name.clone(),
                    scopes: scopes.iter().copied().collect(),
                    galleries,
                    expires_at_ms,
                })?,
            })
        }
        Action::List { at } => {
            let keys: Vec<KeyView> = match at.remote()? {
                Some(remote) => read(remote.get("/v1/keys")?["keys"].take())?,
                None => at.offline(Absent::Refuse)?.list(),
            };
            if at.json {
                return output::json(&keys);
            }
            for key in keys {
                let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
                let galleries =
                    key.galleries.as_ref().map_or("all galleries".to_owned(), |names| {
                        names.iter().map(GalleryId::as_str).collect::<Vec<_>>().join(",")
                    });
                let (id, state, scopes) = (&key.key, &key.state, scopes.join(","));
                say!("{id}  {state:<8} {scopes:<24} {galleries:<16} {}", key.name)?;
            }
            Ok(())
        }
        Action::Revoke { key, at } => {
            let revoked: KeyView = match at.remote()? {
                Some(remote) => read(remote.delete(&format!("/v1/keys/{key}"))?)?,
                None => at.offline(Absent::Refuse)?.revoke(*key)?,
            };
            if at.json { output::json(&revoked) } else { say!("{key} is {}", revoked.state) }
        }
        Action::RotateMaster { new_master_key_file, new_master_key_command, store } => {
            Absent::Refuse.check(store)?;
            let new = match (new_master_key_file, new_master_key_command) {
                (Some(file), _) => KeySource::File(file.clone()),
                (None, Some(command)) => KeySource::Command(command.clone()),
                (None, None) => return Err("name the new master key".into()),
            };
            let old = offline::master_key(store);
            if old == new {
                return Err("the new master key must lie elsewhere than the one before".into());
            }
            let notices = change_master_key(&store.data_dir, &old, &new)?;
            notices.iter().for_each(|notice| note!("note: {notice}"));
            note!(
                "from now on start with the new key, and keep the one before for backups that were made under it"
            );
            say!("the master key of {} was changed", store.data_dir.display())
        }
        Action::Rotate { key, overlap_s, at } => at.print(&match at.remote()? {
            Some(remote) => {
                let body = json!({ "overlap_s": overlap_s });
                read(remote.post(&format!("/v1/keys/{key}:rotate"), &body)?)?
            }
            None => at.offline(Absent::Refuse)?.rotate(*key, *overlap_s)?,
        }),
    }
}
