use std::path::PathBuf;

use crate::config::{ModelArgs, StoreArgs};
use crate::domain::{GalleryId, SubjectId};
use crate::service::explain::{ExplainMethod, Explanation, OfflineTarget};
use crate::service::tools::OfflineModel;
use crate::service::{Explain, ExplainExtras, ExplainTarget, ModelChoice, TargetView};

use super::offline::{self, Absent};
use super::{Failure, output};

/// Where the files go if the caller names no folder.
const DEFAULT_OUT: &str = "explanation";

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("target").required(true)))]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// The image to explain
    image: PathBuf,
    /// Target: another image
    #[arg(long, value_name = "IMAGE", group = "target")]
    with: Option<PathBuf>,
    /// Target: words
    #[arg(long, value_name = "PROMPT", group = "target")]
    text: Option<String>,
    /// Target: the most similar sample of a subject enrolled in --gallery
    #[arg(long, group = "target", requires = "gallery")]
    subject: Option<SubjectId>,
    /// Where the subject is enrolled
    #[arg(long, requires = "subject")]
    gallery: Option<GalleryId>,
    /// `rollout`, `grad-cam` or `relevance`
    #[arg(long, default_value_t = ExplainMethod::Relevance)]
    method: ExplainMethod,
    /// Folder for overlay.png, map.npy and explanation.json [default: explanation, or none with --json]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also measure deletion and insertion curves
    #[arg(long)]
    curves: bool,
    /// Print explanation.json
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let out = args.out.clone().or_else(|| (!args.json).then(|| PathBuf::from(DEFAULT_OUT)));
    let extras = ExplainExtras { overlay: out.is_some(), curves: args.curves };
    let explanation = explain(args, extras)?;
    if let Some(out) = &out {
        explanation.write(out)?;
    }
    let answer = &explanation.answer;
    if args.json {
        return output::json(answer);
    }
    let target = match &answer.target {
        TargetView::Image { file } => file.clone().unwrap_or_else(|| "the image".to_owned()),
        TargetView::Prompt { prompt } => format!("\"{prompt}\""),
        TargetView::Subject { subject, sample, .. } => format!("{subject}, sample {sample}"),
    };
    say!("similarity to {target}: {:.4}", answer.similarity)?;
    if let Some(curves) = &answer.curves {
        say!(
            "area under deletion: {:.4}, under insertion: {:.4}",
            curves.deletion_auc,
            curves.insertion_auc
        )?;
    }
    if let Some(out) = &out {
        say!("written to {}: overlay.png, map.npy, explanation.json", out.display())?;
    }
    Ok(())
}

fn explain(args: &Args, extras: ExplainExtras) -> Result<Explanation, Failure> {
    let target = match (&args.with, &args.text) {
        (Some(path), _) => Some(OfflineTarget::Image(path.clone())),
        (None, Some(prompt)) => Some(OfflineTarget::Prompt(prompt.clone())),
        (None, None) => None,
    };
    if let Some(target) = target {
        let choice = ModelChoice::found_in(&args.model.model, &args.store.data_dir)?;
        let model = OfflineModel::open(&choice, &args.model.device)?;
        for notice in &model.notices {
            note!("note: {notice}");
        }
        return Ok(model.explain(&args.image, &target, (args.method, extras))?);
    }
    let (Some(gallery), Some(subject)) = (args.gallery.clone(), args.subject.clone()) else {
        return Err("--gallery and --subject are needed".into());
    };
    let ask = Explain {
        image: offline::read_image(&args.image)?,
        target: ExplainTarget::Subject { gallery, subject },
        method: args.method,
        extras,
    };
    offline::with_service(Absent::Refuse, &args.store, &args.model, async |service| {
        Ok(service.explain(ask).await?)
    })
}
