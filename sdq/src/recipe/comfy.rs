//! Reads the graph of a ComfyUI run: from the sampler's inputs back to prompts, model and size.

use std::collections::HashSet;

use sdq_engine::PromptSyntax;
use serde_json::Value;

use super::{Found, RecipeError, UsedLora};

/// Key of a node's class.
pub(super) const CLASS: &str = "class_type";

/// Maximum number of links from the sampler to a node that it needs.
const MAX_LINKS: usize = 64;
/// Nodes that do not affect the picture.
const SILENT: [&str; 7] =
    ["SaveImage", "PreviewImage", "VAEDecode", "VAELoader", "LoadImage", "CLIPLoader", "CheckpointLoader"];

/// The recipe in `graph`, an object of nodes by name.
///
/// # Errors
/// When it has no sampler of a known kind.
pub(super) fn read(graph: &Value) -> Result<Found, RecipeError> {
    let damaged = |reason: &str| RecipeError::Damaged { program: "ComfyUI", reason: reason.to_owned() };
    let nodes = graph.as_object().ok_or_else(|| damaged("the graph is not an object of nodes"))?;
    // The last sampler before a picture that is saved, or the first in the file.
    let mut reader =
        Reader { graph, visited: HashSet::new(), found: Found { program: "ComfyUI", ..Found::default() } };
    let saved = nodes.values().filter(|node| matches!(kind(node), "SaveImage" | "PreviewImage"));
    let sampler = saved.map(|node| reader.sampler_before(node)).find_map(|node| node);
    let sampler = sampler.or_else(|| nodes.values().find(|node| is_sampler(node)));
    let sampler = sampler.ok_or_else(|| damaged("the graph has no KSampler"))?;
    reader.visited.clear();
    reader.sampler(sampler);
    let Reader { visited, mut found, .. } = reader;
    found.take_tags();
    for (name, node) in nodes {
        let class = kind(node);
        if !visited.contains(name.as_str()) && !SILENT.contains(&class) && !std::ptr::eq(node, sampler) {
            found.skip("node", class);
        }
    }
    Ok(found)
}

fn kind(node: &Value) -> &str {
    node[CLASS].as_str().unwrap_or_default()
}

/// Whether a node is a sampler: one of the `KSampler` nodes, or one whose settings are separate nodes.
fn is_sampler(node: &Value) -> bool {
    let kind = kind(node);
    kind.starts_with("KSampler") && kind != "KSamplerSelect" || kind.starts_with("SamplerCustom")
}

/// Nodes that pass their input on as it is.
const PASSING: [&str; 2] = ["Reroute", "PrimitiveNode"];

/// The value of a missing input.
static NOTHING: Value = Value::Null;

/// Inputs of a custom sampler that link to nodes with its settings.
const PARTS: [&str; 4] = ["noise", "guider", "sampler", "sigmas"];

/// The inputs of a sampler and of the nodes with its settings.
struct SamplerInputs<'g> {
    all: Vec<&'g Value>,
    /// The node that computes the sigmas.
    sigmas: Option<&'g Value>,
}

impl<'g> SamplerInputs<'g> {
    /// The first input that exists among `names`.
    fn get(&self, names: &[&str]) -> &'g Value {
        let inputs = names.iter().flat_map(|name| self.all.iter().map(|inputs| &inputs[*name]));
        inputs.into_iter().find(|input| !input.is_null()).unwrap_or(&NOTHING)
    }
}

struct Reader<'g> {
    graph: &'g Value,
    /// Names of nodes that were used for the recipe.
    visited: HashSet<&'g str>,
    found: Found,
}

impl<'g> Reader<'g> {
    /// The node that `input` is linked to: `["4", 0]`.
    fn linked(&mut self, input: &'g Value) -> Option<&'g Value> {
        let name = input.as_array()?.first()?.as_str()?;
        let node = self.graph.get(name)?;
        self.visited.insert(name);
        Some(node)
    }

    /// The sampler whose result `node` shows.
    fn sampler_before(&mut self, mut node: &'g Value) -> Option<&'g Value> {
        for _ in 0..MAX_LINKS {
            if is_sampler(node) {
                return Some(node);
            }
            let inputs = &node["inputs"];
            node =
                ["images", "samples", "image", "pixels"].iter().find_map(|key| self.linked(&inputs[*key]))?;
        }
        None
    }

    /// The value of `input` that `is_wanted`, or the one of the node that it is linked to. A node with several values
    /// computes something of them; it is listed as not used, and so is one that passes a value on in another form.
    fn value(&mut self, input: &'g Value, is_wanted: fn(&Value) -> bool) -> Option<&'g Value> {
        let mut input = input;
        for _ in 0..MAX_LINKS {
            if is_wanted(input) {
                return Some(input);
            }
            let node = self.linked(input)?;
            let inputs = node["inputs"].as_object()?;
            let mut values = inputs.values().filter(|value| is_wanted(value) || value.is_array());
            let only = values.next().filter(|_| values.next().is_none());
            if only.is_none_or(|only| only.is_array() && !PASSING.iter().any(|class| kind(node) == *class)) {
                self.leave_out(node);
            }
            input = only?;
        }
        None
    }

    /// Lists `node` as not used, once.
    fn leave_out(&mut self, node: &Value) {
        let listed = format!("node: {}", kind(node));
        if !self.found.unused.contains(&listed) {
            self.found.unused.push(listed);
        }
    }

    fn whole(&mut self, input: &'g Value) -> Option<u64> {
        self.value(input, Value::is_number)?.as_u64()
    }

    fn size(&mut self, input: &'g Value) -> Option<usize> {
        usize::try_from(self.whole(input)?).ok()
    }

    fn float(&mut self, input: &'g Value) -> Option<f64> {
        self.value(input, Value::is_number)?.as_f64()
    }

    fn text(&mut self, input: &'g Value) -> Option<&'g str> {
        self.value(input, Value::is_string)?.as_str()
    }

    /// The inputs of the sampler `node`.
    fn sampler_inputs(&mut self, node: &'g Value) -> SamplerInputs<'g> {
        let own = &node["inputs"];
        let mut inputs = SamplerInputs { all: vec![own], sigmas: None };
        for part in PARTS {
            if let Some(node) = self.linked(&own[part]) {
                inputs.all.push(&node["inputs"]);
                if part == "sigmas" {
                    inputs.sigmas = Some(node);
                }
            }
        }
        inputs
    }

    /// The name of the sigma schedule: an input, or the class of the node that computes the sigmas.
    fn schedule(&mut self, inputs: &SamplerInputs<'g>) -> Option<&'g str> {
        let of_node = inputs.sigmas.and_then(|node| kind(node).strip_suffix("Scheduler"));
        // ComfyUI's schedule of that name differs from the web UI's.
        match self.text(inputs.get(&["scheduler"])).or(of_node)? {
            "beta" | "BetaSampling" => Some("beta_timesteps"),
            name => Some(name),
        }
    }

    fn sampler(&mut self, node: &'g Value) {
        let inputs = self.sampler_inputs(node);
        self.found.recipe.request.reading.syntax = PromptSyntax::Weighted;
        if let Some(seed) = self.whole(inputs.get(&["seed", "noise_seed"])) {
            (self.found.recipe.request.seed, self.found.has_seed) = (seed, true);
        }
        self.found.recipe.request.steps = self.size(inputs.get(&["steps"]));
        self.found.recipe.request.guidance_scale = self.float(inputs.get(&["cfg"])).map(|scale| scale as f32);
        if let Some(sampler) = self.text(inputs.get(&["sampler_name"])) {
            let schedule = self.schedule(&inputs);
            self.found.set_sampler(sampler, schedule);
        }
        self.model(inputs.get(&["model"]));
        let prompt = self.prompt(inputs.get(&["positive", "conditioning"]));
        self.found.recipe.request.prompt = prompt.unwrap_or_default();
        let negative_prompt = self.prompt(inputs.get(&["negative"]));
        self.found.recipe.request.negative_prompt = negative_prompt.unwrap_or_default();
        let from_picture = self.latents(inputs.get(&["latent_image"]));
        match self.float(inputs.get(&["denoise"])) {
            Some(strength) if from_picture => self.found.recipe.request.strength = Some(strength),
            Some(strength) if strength != 1.0 => self.found.skip("denoise", &strength.to_string()),
            _ => {}
        }
        // Inputs of KSamplerAdvanced, which can draw a part of the steps.
        for (key, whole) in [("start_at_step", 0.0), ("end_at_step", 10_000.0)] {
            if let Some(step) = self.float(inputs.get(&[key])).filter(|&step| step != whole) {
                self.found.skip(key, &step.to_string());
            }
        }
    }

    /// Follows the sampler's model through LoRAs to the checkpoint.
    fn model(&mut self, input: &'g Value) {
        let mut input = input;
        for _ in 0..MAX_LINKS {
            let Some(node) = self.linked(input) else { break };
            let inputs = &node["inputs"];
            let file = ["ckpt_name", "unet_name"].iter().find_map(|key| self.text(&inputs[*key]));
            if let Some(file) = file {
                self.found.recipe.model = file.to_owned();
                break;
            }
            match (self.text(&inputs["lora_name"]), self.float(&inputs["strength_model"])) {
                (Some(file), Some(strength)) => {
                    let strength = strength as f32;
                    let text_strength = self.float(&inputs["strength_clip"]).map(|other| other as f32);
                    self.found.recipe.loras.push(UsedLora {
                        file: file_name(file),
                        strength,
                        text_strength: text_strength.filter(|&other| other != strength),
                    });
                }
                _ => self.found.skip("node", kind(node)),
            }
            input = &inputs["model"];
        }
        // They were collected backwards: the sampler's model is that of the last LoRA.
        self.found.recipe.loras.reverse();
    }

    /// The text of the node that encodes it, followed from the sampler.
    fn prompt(&mut self, input: &'g Value) -> Option<String> {
        let mut input = input;
        for _ in 0..MAX_LINKS {
            let node = self.linked(input)?;
            let inputs = &node["inputs"];
            let text = ["text", "text_g", "text_l"].iter().find_map(|key| self.text(&inputs[*key]));
            if let Some(text) = text {
                let text = text.to_owned();
                self.clip_skip(&inputs["clip"]);
                let other = self.text(&inputs["text_l"]).filter(|other| *other != text);
                if let Some(other) = other.filter(|_| !inputs["text_g"].is_null()) {
                    self.found.skip("text_l", other);
                }
                return Some(text);
            }
            self.found.skip("node", kind(node));
            input = ["conditioning", "conditioning_1", "positive", "conditioning_to"]
                .iter()
                .map(|key| &inputs[*key])
                .find(|value| value.is_array())?;
        }
        None
    }

    fn clip_skip(&mut self, clip: &'g Value) {
        let layer = self.linked(clip).and_then(|node| node["inputs"]["stop_at_clip_layer"].as_i64());
        if let Some(layer) = layer {
            self.found.recipe.request.reading.clip_skip = usize::try_from(layer.unsigned_abs()).ok();
        }
    }

    /// Reads the size or the start picture; returns whether there is a picture.
    fn latents(&mut self, input: &'g Value) -> bool {
        let mut input = input;
        for _ in 0..MAX_LINKS {
            let Some(node) = self.linked(input) else { return false };
            let inputs = &node["inputs"];
            if kind(node).starts_with("Empty") {
                let (width, height) = (self.size(&inputs["width"]), self.size(&inputs["height"]));
                (self.found.recipe.request.width, self.found.recipe.request.height) = (width, height);
                if let Some(count) = self.size(&inputs["batch_size"]).filter(|&count| count > 1) {
                    self.found.skip("batch_size", &count.to_string());
                }
                return false;
            }
            if kind(node) == "LoadImage" {
                self.found.recipe.init_image = self.text(&inputs["image"]).map(file_name);
                return true;
            }
            if kind(node) != "VAEEncode" {
                self.found.skip("node", kind(node));
            }
            let next =
                ["pixels", "samples", "image"].iter().map(|key| &inputs[*key]).find(|value| value.is_array());
            let Some(next) = next else { return false };
            input = next;
        }
        false
    }
}

/// The last part of a path of any operating system.
fn file_name(path: &str) -> String {
    path.rsplit(['/', '\\']).next().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests;
