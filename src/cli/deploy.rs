use serde_json::{Value, json};

use crate::config::RemoteArgs;
use crate::service::evaluate::GateTable;

use super::remote::{Refused, Remote, options};
use super::{Failure, output};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The model that is to serve: a name of the registry, or `nano`
    model: String,
    #[command(flatten)]
    server: RemoteArgs,
    /// Compare it first with the model that serves, on this folder of a data root
    #[arg(long, value_name = "ROOT/FOLDER", conflicts_with = "evaluation")]
    data: Option<String>,
    /// With --data: only the subjects that a training run with this share held out
    #[arg(long, value_name = "SHARE", requires = "data")]
    hold_out: Option<f64>,
    /// With --data: take images with accessories too
    #[arg(long, requires = "data")]
    accessories: bool,
    /// With --data: draws of gallery and query
    #[arg(long, default_value_t = 10, value_name = "N")]
    runs: u16,
    /// An evaluation that compared the two, and whose gate passed
    #[arg(long, value_name = "ID")]
    evaluation: Option<String>,
    /// Pass over the gate; the reason is kept in the deployment's history
    #[arg(long = "override", value_name = "REASON")]
    override_reason: Option<String>,
    /// What becomes of samples that kept no image: block, drop or keep_old_generation
    #[arg(long, default_value = "block")]
    without_images: String,
    /// How long the way back is kept, in seconds
    #[arg(long, default_value_t = 3600)]
    soak_s: u64,
    /// Most images embedded a second
    #[arg(long, value_name = "N")]
    images_per_second: Option<f64>,
    /// Let galleries that decide by thresholds do without
    #[arg(long)]
    allow_uncalibrated: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let remote = Remote::new(&args.server.server, &args.server.key)?;
    let mut evaluation = args.evaluation.clone();
    if let Some(data) = &args.data {
        let mut body = json!({
            "models": ["champion", args.model],
            "data": {"directory": data},
            "runs": args.runs,
            "accessories": args.accessories,
        });
        if let Some(share) = args.hold_out {
            body["hold_out"] = json!(share);
        }
        let job = remote.post("/v1/evaluations", &body)?;
        let job = remote.follow(&job, "comparing")?;
        let id = job["job"].as_str().unwrap_or_default().to_owned();
        let found = remote.get(&format!("/v1/evaluations/{id}"))?;
        if let Some(table) = gate(&found["gate"]) {
            note!("{}", table.trim_end());
        }
        evaluation = Some(id);
    }
    let mut body = json!({
        "without_images": args.without_images,
        "soak_s": args.soak_s,
        "allow_uncalibrated": args.allow_uncalibrated,
    });
    if let Some(id) = evaluation {
        body["evaluation"] = json!(id);
    }
    if let Some(reason) = &args.override_reason {
        body["override"] = json!({ "reason": reason });
    }
    if let Some(rate) = args.images_per_second {
        body["images_per_second"] = json!(rate);
    }
    let job = remote.post(&format!("/v1/models/{}:deploy", args.model), &body);
    let job = job.map_err(|error| match error.downcast_ref::<Refused>() {
        Some(refused) if refused.code == "gate_failed" && args.data.is_none() => {
            let table = gate(&refused.problem["gate"]).unwrap_or_default();
            Failure::from(format!("{error}\n{table}"))
        }
        _ => error,
    })?;
    let job = remote.follow(&job, "deploying")?;
    if args.json {
        return output::json(&job["output"]);
    }
    say!(
        "{} serves as generation {}; `handclip rollback {}` undoes it within {} s",
        job["output"]["model"].as_str().unwrap_or(&args.model),
        job["output"]["generation"],
        options(&args.server),
        args.soak_s
    )
}

fn gate(table: &Value) -> Option<String> {
    serde_json::from_value::<GateTable>(table.clone()).ok().map(|table| table.table())
}
