//! Reads `config.json`, key by key.

use serde_json::{Map, Value};

use super::super::model_config::{Positions, RopeScaling, Rotary};
use crate::error::{Error, Result, bail};
use crate::kernels::Activation;

/// The largest number of anything but layers. Products of two of them, by 4 bytes, can be counted.
const MOST: u64 = 1 << 30;
/// The largest number of layers.
const MOST_LAYERS: usize = 1 << 16;

/// The keys of a `config.json`. A null value counts as absent.
pub struct Keys<'a>(pub &'a Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Returns a whole number above 0, within what any model has.
    ///
    /// # Errors
    /// When the key is absent or has another value.
    pub fn count(&self, key: &str) -> Result<usize> {
        match self.get(key).and_then(Value::as_u64) {
            Some(n) if (1..=MOST).contains(&n) => Ok(n as usize),
            _ => bail!("`{key}` must be a whole number from 1 to {MOST}."),
        }
    }

    /// Returns the number of layers under `key`.
    ///
    /// # Errors
    /// When the key is absent or has another value.
    pub fn layers(&self, key: &str) -> Result<usize> {
        match self.count(key)? {
            layers if layers > MOST_LAYERS => bail!("`{key}` is {layers}; it may be {MOST_LAYERS} at most."),
            layers => Ok(layers),
        }
    }

    /// Does the same as [`Keys::count`], or returns `otherwise` if the key is absent.
    pub fn count_or(&self, key: &str, otherwise: usize) -> Result<usize> {
        if self.get(key).is_some() { self.count(key) } else { Ok(otherwise) }
    }

    /// Returns a number, or `otherwise` if the key is absent.
    pub fn number_or(&self, key: &str, otherwise: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(otherwise),
            Some(value) => {
                value.as_f64().ok_or_else(|| Error::new(format!("`{key}` is {value}; it must be a number.")))
            }
        }
    }

    /// Returns a number above 0, or `otherwise` if the key is absent.
    pub fn positive_or(&self, key: &str, otherwise: f64) -> Result<f64> {
        match self.number_or(key, otherwise)? {
            number if number <= 0.0 => bail!("`{key}` is {number}; it must be a number above 0."),
            number => Ok(number),
        }
    }

    /// Returns a flag, or `otherwise` if the key is absent.
    pub fn flag_or(&self, key: &str, otherwise: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(otherwise),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => bail!("`{key}` is {value}; it must be true or false."),
        }
    }

    /// Returns a string, or none if the key is absent.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => bail!("`{key}` is {value}; it must be a string."),
        }
    }

    /// Fails if the key has any value but the one that this program computes with.
    pub fn only(&self, key: &str, supported: &Value) -> Result<()> {
        match self.get(key) {
            Some(value) if value != supported => {
                bail!("`{key}` is {value}; this version supports {supported} only.")
            }
            _ => Ok(()),
        }
    }

    /// Returns the nonlinearity under `key`, or `otherwise` if the key is absent.
    pub fn activation(&self, key: &str, otherwise: Activation) -> Result<Activation> {
        Ok(match self.text(key)? {
            None => otherwise,
            Some("silu" | "swish") => Activation::Silu,
            Some("gelu") => Activation::Gelu,
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Activation::GeluTanh,
            Some(other) => bail!("`{key}` is \"{other}\"; this version supports silu, gelu and gelu_new."),
        })
    }

    /// Returns the rotary positions of heads of `head_dim` numbers. Older files keep the base and a table
    /// `rope_scaling` beside the other keys; newer ones keep all of it in `rope_parameters`. The rotated share of a
    /// head's numbers is `share`, unless the file says otherwise (`share_key`, or `partial_rotary_factor` in the newer
    /// files).
    ///
    /// # Errors
    /// When the number of rotated numbers is odd, or the scaling is not supported.
    pub fn rotary(&self, head_dim: usize, theta_key: &str, share_key: &str, share: f64) -> Result<Positions> {
        let newer = self.table("rope_parameters")?;
        let scaling = if newer.is_some() { newer } else { self.table("rope_scaling")? };
        let base = newer.map_or(Keys(self.0), Keys);
        let own = Keys(self.0);
        let theta =
            base.positive_or("rope_theta", own.positive_or(theta_key, own.positive_or("rope_theta", 10_000.0)?)?)?;
        let share = base.positive_or("partial_rotary_factor", own.positive_or(share_key, share)?)?;
        let width = (head_dim as f64 * share) as usize;
        if !width.is_multiple_of(2) || width == 0 || width > head_dim {
            bail!(
                "rotary positions need an even number of numbers in each head; here it would be {width} of {head_dim}."
            );
        }
        let scaling = match scaling {
            None => RopeScaling::None,
            Some(table) => rope_scaling(&Keys(table)).map_err(|e| e.within("rope_scaling"))?,
        };
        if let RopeScaling::Factors(factors) = &scaling
            && factors.len() != width / 2
        {
            bail!("there are {} rope factors for {} angles.", factors.len(), width / 2);
        }
        Ok(Positions::Rotary(Rotary { theta, width, scaling }))
    }

    /// Returns the table under `key`, or none if the key is absent.
    fn table(&self, key: &str) -> Result<Option<&Map<String, Value>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(table)) => Ok(Some(table)),
            Some(value) => bail!("`{key}` is {value}; it must be a table."),
        }
    }

    /// Returns the attention window of each layer: `sliding_window` tokens where `layer_types`, or without it `slides`,
    /// says that the layer has one. Empty if no layer has one.
    pub fn windows(&self, layers: usize, slides: impl Fn(usize) -> bool) -> Result<Vec<Option<usize>>> {
        if self.get("sliding_window").is_none() {
            return Ok(Vec::new());
        }
        let width = self.count("sliding_window")?;
        let named = match self.get("layer_types") {
            None => None,
            Some(Value::Array(kinds)) if kinds.len() == layers => Some(kinds),
            Some(value) => bail!("`layer_types` is {value}; it must name a kind for each of {layers} layers."),
        };
        let slides = |layer: usize| match named.map(|kinds| kinds[layer].as_str()) {
            None => Ok(slides(layer)),
            Some(Some("full_attention")) => Ok(false),
            Some(Some("sliding_attention")) => Ok(true),
            Some(_) => bail!("`layer_types` of layer {layer} must be full_attention or sliding_attention."),
        };
        let windows: Vec<Option<usize>> =
            (0..layers).map(|layer| Ok(slides(layer)?.then_some(width))).collect::<Result<_>>()?;
        Ok(if windows.iter().all(Option::is_none) { Vec::new() } else { windows })
    }
}

/// Reads a table of rotary scaling.
fn rope_scaling(keys: &Keys) -> Result<RopeScaling> {
    let kind = match keys.text("rope_type")? {
        Some(kind) => Some(kind),
        None => keys.text("type")?,
    };
    let needed = |key: &str| match keys.positive_or(key, f64::NAN)? {
        x if x > 0.0 => Ok(x),
        _ => bail!("`{key}` must be a number above 0."),
    };
    Ok(match kind {
        None | Some("default") => RopeScaling::None,
        Some("linear") => RopeScaling::Linear(needed("factor")?),
        Some("llama3") => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_frequency: needed("low_freq_factor")?,
            high_frequency: needed("high_freq_factor")?,
            original_context: needed("original_max_position_embeddings")?,
        },
        Some("factors") => {
            let factors = keys.get("factors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            RopeScaling::Factors(factors.iter().map(|f| f.as_f64().unwrap_or(1.0) as f32).collect())
        }
        Some(other) => bail!("the kind (rope_type) is \"{other}\"; this version supports default, linear and llama3."),
    })
}
