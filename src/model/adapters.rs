use std::collections::BTreeMap;

use candle_core::{Device, Result as CandleResult, Tensor, Var};

use super::parameters::uniform;
use super::{ModelError, Parameters};

/// Low-rank changes of the attention's weight matrices (LoRA, Hu et al., 2021): `W + alpha / rank * up down`, of
/// which only `up` and `down` learn. They start without effect, because `up` starts at 0.
#[derive(Debug, Clone)]
pub struct Adapters {
    pairs: BTreeMap<String, (Var, Var)>,
    scale: f64,
}

/// What is added to one matrix.
pub(super) struct Adapter {
    down: Tensor,
    up: Tensor,
    scale: f64,
}

impl Adapter {
    /// `[outputs, inputs]`.
    pub(super) fn change(&self) -> CandleResult<Tensor> {
        self.up.matmul(&self.down)? * self.scale
    }
}

impl Adapters {
    /// Adapters for every attention matrix (queries, keys, values and the output) whose name `wanted` takes.
    ///
    /// # Errors
    /// When memory on the device is short.
    pub fn on_attention(
        parameters: &Parameters,
        rank: usize,
        alpha: f64,
        seed: u64,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Self, ModelError> {
        let mut pairs = BTreeMap::new();
        for (name, var) in parameters.iter() {
            if !name.contains(".self_attn.") || var.rank() != 2 || !wanted(name) {
                continue;
            }
            let ((outputs, inputs), device) = (var.dims2()?, var.device());
            let bound = (inputs as f64).sqrt().recip();
            let down = uniform(seed, &format!("{name}.down"), rank * inputs, bound);
            let down = Tensor::from_vec(down, (rank, inputs), &Device::Cpu)?.to_device(device)?;
            let up = Var::zeros((outputs, rank), var.dtype(), device)?;
            pairs.insert(name.to_owned(), (Var::from_tensor(&down)?, up));
        }
        Ok(Self { pairs, scale: alpha / rank as f64 })
    }

    /// Names and variables, sorted by the name of the matrix.
    #[must_use]
    pub fn vars(&self) -> Vec<(String, Var)> {
        let of = |(name, (down, up)): (&String, &(Var, Var))| {
            [(format!("{name}.lora_down"), down.clone()), (format!("{name}.lora_up"), up.clone())]
        };
        self.pairs.iter().flat_map(of).collect()
    }

    pub(super) fn of(&self, name: &str) -> Option<Adapter> {
        let (down, up) = self.pairs.get(name)?;
        let tensor = |var: &Var| var.as_tensor().clone();
        Some(Adapter { down: tensor(down), up: tensor(up), scale: self.scale })
    }

    /// A copy of the parameters with the changes added: a model like any other.
    ///
    /// # Errors
    /// When memory on the device is short.
    pub fn merged(&self, parameters: &Parameters) -> Result<Parameters, ModelError> {
        let copy = parameters.snapshot()?;
        for (name, (down, up)) in &self.pairs {
            let var = copy.require(name)?;
            let (down, up) = (down.as_detached_tensor(), up.as_detached_tensor());
            let change = Adapter { down, up, scale: self.scale }.change()?;
            var.set(&(var.as_detached_tensor() + change)?)?;
        }
        Ok(copy)
    }
}
