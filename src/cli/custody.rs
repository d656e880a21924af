//! Backups, what was erased, and who did what.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use crate::config::{ServerArgs, StoreArgs};
use crate::domain::{GalleryId, SubjectId};
use crate::service::tools::has_store;
use crate::service::{
    AuditCheckView, AuditEntry, AuditHead, AuditPage, AuditQuery, BackupInfo, ErasureList,
    KeySource, OfflineStore, Replace, Restore, ServiceError, check_backup, check_exported,
    write_new,
};

use super::offline::{self, Absent};
use super::remote::Remote;
use super::{Failure, evaluate, output};

/// Lines that are asked for at a time.
const PAGE: usize = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Who did what: read the audit log, and check that nothing of it was changed
    Audit {
        #[command(subcommand)]
        action: AuditAction,
    },
    /// Back up the whole store, sealed; of a running server with --server
    Backup {
        /// The file, which must not be there yet
        file: PathBuf,
        #[command(flatten)]
        remote: ServerArgs,
    },
    /// Read a whole backup and open every record in it
    Verify {
        /// The backup
        file: PathBuf,
    },
    /// Put a backup back; who was erased since does not come back
    Restore {
        /// The backup
        file: PathBuf,
        /// Take the place of the store that is there
        #[arg(long)]
        replace: bool,
        /// With --replace: it cannot be opened any more, so do not ask it who was erased
        #[arg(long, requires = "replace")]
        damaged: bool,
        /// The master key of the time when the backup was made, if it was changed since
        #[arg(long, value_name = "FILE")]
        backup_master_key_file: Option<PathBuf>,
        /// What was erased from a store that is lost: a file that `gallery erasures` wrote; may be repeated
        #[arg(long, value_name = "FILE")]
        erasures: Vec<PathBuf>,
    },
    /// Print everything that was ever erased, naming nobody, for a later `restore --erasures`
    Erasures {
        #[command(flatten)]
        remote: ServerArgs,
    },
}

/// Does what needs the store and no model.
pub(super) fn run(store: &StoreArgs, as_json: bool, action: &Action) -> Result<(), Failure> {
    match action {
        Action::Audit { action } => audit(store, as_json, action),
        Action::Backup { file, remote } => backup(store, as_json, file, remote),
        Action::Verify { file } => verify(store, as_json, file),
        Action::Restore { file, replace, damaged, backup_master_key_file, erasures } => {
            let replace = match (replace, damaged) {
                (false, _) => Replace::Never,
                (true, false) => Replace::Sound,
                (true, true) => Replace::Damaged,
            };
            restore(store, as_json, file, replace, backup_master_key_file.as_deref(), erasures)
        }
        Action::Erasures { remote } => erasures(store, remote),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditAction {
    /// Follow the chain of the audit log: every line there, unaltered, in its place
    Verify {
        /// A head that was seen before, as `NUMBER:HASH`; may be repeated
        #[arg(long, value_name = "NUMBER:HASH", value_parser = head)]
        expect: Vec<AuditHead>,
        /// Check lines that `list --json` printed, without the store and its key
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        remote: ServerArgs,
    },
    /// Print the audit log, the oldest line first; with --json a line each that `verify --file` takes
    List {
        /// Lines after this number
        #[arg(long, default_value_t = 0, value_name = "NUMBER")]
        after: u64,
        /// Only of this gallery
        #[arg(long = "of-gallery", value_name = "GALLERY")]
        gallery: Option<GalleryId>,
        /// Only of this subject
        #[arg(long, value_name = "SUBJECT")]
        subject: Option<SubjectId>,
        #[command(flatten)]
        remote: ServerArgs,
    },
}

fn head(text: &str) -> Result<AuditHead, String> {
    let problem = || "write NUMBER:HASH, as `verify` printed it".to_owned();
    let (number, hash) = text.split_once(':').ok_or_else(problem)?;
    Ok(AuditHead { number: number.parse().map_err(|_| problem())?, hash: hash.to_owned() })
}

fn remote(args: &ServerArgs) -> Result<Option<Remote>, Failure> {
    args.server.as_deref().map(|url| Remote::new(url, &args.key)).transpose()
}

fn open(store: &StoreArgs) -> Result<OfflineStore, Failure> {
    Absent::Refuse.check(store)?;
    let (opened, notices) = OfflineStore::open(&store.data_dir, &offline::master_key(store))?;
    notices.iter().for_each(|notice| note!("note: {notice}"));
    Ok(opened)
}

fn audit(store: &StoreArgs, as_json: bool, action: &AuditAction) -> Result<(), Failure> {
    match action {
        AuditAction::Verify { expect, file, remote: server } => {
            let check: AuditCheckView = match (file, remote(server)?) {
                (Some(file), _) => check_exported(&exported(file)?, expect)?,
                (None, Some(remote)) => {
                    let body = json!({ "expect": expect });
                    serde_json::from_value(remote.post("/v1/audit:verify", &body)?)?
                }
                (None, None) => open(store)?.check_audit(expect)?,
            };
            if as_json {
                output::json(&check)?;
            } else {
                for problem in &check.problems {
                    say!("line {}: {}", problem.number, problem.problem)?;
                }
                say!("{}:{}", check.head.number, check.head.hash)?;
            }
            if check.sound {
                note!("{} lines, every one in its place", check.head.number);
                return Ok(());
            }
            Err(format!("{} lines are not as they were written", check.problems.len()).into())
        }
        AuditAction::List { after, gallery, subject, remote: server } => {
            let remote = remote(server)?;
            let offline = if remote.is_none() { Some(open(store)?) } else { None };
            let (gallery, subject) = (gallery.clone(), subject.clone());
            let mut query = AuditQuery { after: *after, limit: PAGE, gallery, subject };
            loop {
                let page = match (&remote, &offline) {
                    (Some(remote), _) => remote_page(remote, &query)?,
                    (None, Some(store)) => store.audit_lines(&query)?,
                    (None, None) => return Ok(()),
                };
                for entry in &page.entries {
                    if as_json { output::json_line(entry)? } else { print(entry)? }
                }
                match page.next_after {
                    Some(next) => query.after = next,
                    None => return Ok(()),
                }
            }
        }
    }
}

fn remote_page(remote: &Remote, query: &AuditQuery) -> Result<AuditPage, Failure> {
    let mut path = format!("/v1/audit?after={}&limit={}", query.after, query.limit);
    // Their letters need no escape.
    if let Some(gallery) = &query.gallery {
        path.push_str(&format!("&gallery={gallery}"));
    }
    if let Some(subject) = &query.subject {
        path.push_str(&format!("&subject={subject}"));
    }
    Ok(serde_json::from_value(remote.get(&path)?)?)
}

fn print(entry: &AuditEntry) -> Result<(), Failure> {
    let line = &entry.line;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let what = match line.outcome_of {
        Some(number) => format!("{} (line {number})", part(&line.outcome)),
        None => part(&line.action),
    };
    let (number, at) = (entry.number, utc(line.at_ms));
    let (gallery, subject, about) = (part(&line.gallery), part(&line.subject), part(&line.about));
    let text = format!("{number:>8}  {at}  {:<10} {what:<20} {gallery} {subject} {about}", line.by);
    say!("{}", text.trim_end())
}

/// A time as people write it, in UTC.
fn utc(at_ms: u64) -> String {
    let (days, second) = (at_ms / 86_400_000, at_ms / 1000 % 86_400);
    // Days since 1970 as a date of the Gregorian calendar, years beginning in March.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

fn exported(file: &Path) -> Result<Vec<AuditEntry>, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read `{}`: {error}", file.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty()).enumerate();
    lines
        .map(|(at, line)| {
            serde_json::from_str(line)
                .map_err(|error| format!("line {} of the file is none: {error}", at + 1).into())
        })
        .collect()
}

fn backup(store: &StoreArgs, as_json: bool, to: &Path, server: &ServerArgs) -> Result<(), Failure> {
    let bar = output::bytes("backing up");
    let made: Result<u64, ServiceError> = match remote(server)? {
        Some(remote) => write_new(to, |file| {
            let failed = |error: Failure| ServiceError::Backup(error.to_string());
            let mut body = remote.download("/v1/backup").map_err(failed)?;
            std::io::copy(&mut bar.wrap_read(body.as_reader()), file)
                .map_err(|error| ServiceError::Backup(format!("it broke off: {error}")))
        }),
        None => open(store)?.backup(to).map(|made| made.bytes),
    };
    bar.finish_and_clear();
    let bytes = made?;
    if as_json {
        return output::json(&json!({ "file": to, "bytes": bytes }));
    }
    note!("{}", how_to_check(store, to, server));
    say!("{} bytes in {}", bytes, to.display())
}

/// What to type to have a backup read again: its master key is that of the store it is of.
fn how_to_check(store: &StoreArgs, backup: &Path, server: &ServerArgs) -> String {
    let quoted = |path: &Path| evaluate::quoted(&path.to_string_lossy());
    let backup = quoted(backup);
    if server.server.is_some() {
        return format!(
            "check it with `handclip gallery verify --master-key-file FILE {backup}`, where FILE has the server's master key"
        );
    }
    let mut options = format!("--data-dir {}", quoted(&store.data_dir));
    if let Some(file) = &store.master_key_file {
        options.push_str(&format!(" --master-key-file {}", quoted(file)));
    }
    if let Some(command) = &store.master_key_command {
        options.push_str(&format!(" --master-key-command {}", evaluate::quoted(command)));
    }
    format!("check it with `handclip gallery {options} verify {backup}`")
}

fn verify(store: &StoreArgs, as_json: bool, file: &Path) -> Result<(), Failure> {
    let bar = output::spinner("reading the backup");
    let checked = check_backup(file, &offline::master_key(store));
    bar.finish_and_clear();
    let view = checked?;
    if as_json {
        return output::json(&view);
    }
    say!("{}", sound(&view))
}

fn sound(view: &BackupInfo) -> String {
    let BackupInfo { backup, store, made_at_ms, records, .. } = view;
    let at = utc(*made_at_ms);
    format!("backup {backup} of store {store}, {at}: {records} records, every one whole")
}

fn restore(
    store: &StoreArgs,
    as_json: bool,
    file: &Path,
    replace: Replace,
    backup_key: Option<&Path>,
    lists: &[PathBuf],
) -> Result<(), Failure> {
    let erasures = lists.iter().map(|path| list(path)).collect::<Result<_, Failure>>()?;
    let new = !has_store(&store.data_dir)? || replace == Replace::Damaged;
    let restore = Restore {
        file: file.to_owned(),
        data_dir: store.data_dir.clone(),
        master_key: offline::master_key(store),
        backup_key: backup_key.map(|path| KeySource::File(path.to_owned())),
        replace,
        erasures,
    };
    let bar = output::spinner("putting the backup back");
    let restored = restore.run();
    bar.finish_and_clear();
    let restored = restored?;
    if new && lists.is_empty() {
        note!(
            "note: nothing here said who was erased since the backup was made; if a list of erasures was kept, put the backup back with --erasures"
        );
    }
    if !restored.keys_kept {
        note!("note: API keys are those of the backup: revoke what was revoked since");
    }
    note!("note: files of registered models and uploads are not in a backup: put back DIR/models");
    if as_json {
        return output::json(&restored);
    }
    say!("{}", sound(&restored.backup))?;
    say!("{} people erased since did not come back", restored.erased_again)
}

fn list(path: &Path) -> Result<ErasureList, Failure> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    serde_json::from_str(&text)
        .map_err(|error| format!("`{}` is no list of erasures: {error}", path.display()).into())
}

fn erasures(store: &StoreArgs, server: &ServerArgs) -> Result<(), Failure> {
    let list: Value = match remote(server)? {
        Some(remote) => remote.get("/v1/erasures")?,
        None => serde_json::to_value(open(store)?.erasures()?)?,
    };
    output::json(&list)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_399_000), "2000-02-28 23:59:59");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(utc(1_735_689_599_999), "2024-12-31 23:59:59");
        assert_eq!(utc(4_107_542_400_000), "2100-03-01 00:00:00");
    }
}
