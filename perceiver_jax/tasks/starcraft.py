"""Behavioral cloning in StarCraft II (Perceiver IO v3, section 4.4, app. B).

The model predicts the next command of a recorded player from the entities of an
observation: what to do (a class), which entity to select and which to target
(an index of an entity each).

Shapes: b examples, M entity slots, A actions.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
from jax import numpy as jnp
from scipy import special

from perceiver_jax.data.core.source import Example
from perceiver_jax.data.starcraft import features, sources
from perceiver_jax.errors import UserError
from perceiver_jax.models import perceiver
from perceiver_jax.models.typing import ReturnAttention
from perceiver_jax.tasks import base
from perceiver_jax.tasks.base import Batch
from perceiver_jax.training import metrics as metrics_lib
from perceiver_jax.training.metrics import Metrics
from perceiver_jax.viz import attention_maps, battle_maps, sections

_MAX_DRAWN = 9  # Battles in the report.


class StarCraft(base.Task):
  """Prediction of the next command from a set of entities.

  Args:
    config: Config with the sections `model` (see `models.zoo.build`) and `data`
      of `configs/starcraft.py`.
    metadata: Names of the actions, the unit types and the groups; if None, they
      are read from the source.

  Raises:
    UserError: The number of actions differs from that of the data.
  """

  primary_metric = "eval/command_accuracy"

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    metadata: Mapping[str, Any] | None = None,
  ):
    super().__init__(config)
    self._num_slots = config.data.num_entities
    self._metadata = dict(metadata or self._source_metadata())
    given = config.model.decoder.num_actions
    if given != len(self.class_names):
      raise UserError(
        f"config.model.decoder.num_actions is {given} but the data has"
        f" {len(self.class_names)} actions; make them equal"
      )

  @property
  def class_names(self) -> tuple[str, ...]:
    """Returns the names of the actions."""
    return tuple(self._metadata["class_names"])

  @property
  def group_names(self) -> tuple[str, ...]:
    """Returns the names of the kinds of observations, if there are several."""
    return tuple(self._metadata.get("group_names", ()))

  def _source_metadata(self) -> dict[str, tuple[str, ...]]:
    source = self.source("eval")
    names = ("class_names", "unit_type_names", "group_names")
    return {name: getattr(source, name) for name in names}

  def metadata(self) -> dict[str, Any]:
    """Returns the names of the actions, the unit types and the groups."""
    return self._metadata

  def describe_model(self) -> base.ModelDescription:
    """Describes the entities and the outputs."""
    inputs = {
      "categories": "the number of each categorical feature's category, -1 for"
      " none; docs/starcraft.md lists the features",
      "numbers": "the numerical features, 0 where missing",
      "positions": "x and y, with the borders of the map at -1 and 1",
      "input_mask": "True at entities, False at padding",
    }
    entities = "the softmax over entities is the probabilities"
    outputs = {
      "action": "logits of the actions",
      "selected": f"logits of the entity to select; {entities}",
      "target": f"logits of the entity to target; {entities}",
      "entity_embeddings": "an embedding of each entity, 0 at padding",
      "embedded_entity": "an embedding of all entities together",
    }
    return base.ModelDescription(inputs, outputs)

  def dummy_batch(self) -> Batch:
    """Returns one observation without entities."""
    columns, count = features.NUM_CATEGORY_COLUMNS, self._num_slots
    none = np.full(1, features.NONE, np.int32)
    return {
      "categories": np.full((1, count, columns), features.NONE, np.int32),
      "numbers": np.zeros((1, count, features.NUM_NUMBERS), np.float32),
      "positions": np.zeros((1, count, 2), np.float32),
      "input_mask": np.zeros((1, count), bool),
      **dict.fromkeys(features.TARGETS, none),
      "group": np.zeros(1, np.int32),
      "unreadable": np.zeros(1, np.float32),
      "index": np.zeros(1, np.int32),
      "mask": np.ones(1, np.float32),
    }

  @functools.cache  # noqa: B019 (a task lives as long as its program)
  def source(self, split: str) -> sources.ObservationSource:
    """Returns the observations of a split, "train" or "eval"."""
    data = self._config.data
    split = data.train_split if split == "train" else data.eval_split
    arguments = data.source_args.to_dict().get(data.source, {})
    return sources.make_source(data.source, split=split, **arguments)

  def preprocess(
    self, example: Example, rng: np.random.Generator | None
  ) -> Example:
    """Encodes the features and pads the entities; nothing is augmented."""
    del rng
    features.check_targets(example, len(self.class_names))
    encoded = features.pad(features.encode(example), self._num_slots)
    targets = {name: np.int32(example[name]) for name in features.TARGETS}
    return {
      **encoded,
      **targets,
      "group": np.int32(example.get("group", 0)),
      "unreadable": np.float32(example.get("unreadable", 0)),
    }

  def forward(
    self,
    batch: Batch,
    *,
    is_training: bool,
    return_attention: ReturnAttention = False,
  ) -> perceiver.Outputs:
    """Returns the outputs of `models.modalities.entities.entity_outputs`."""
    raw = {name: batch[name] for name in ("categories", "numbers", "positions")}
    return self.build_model()(
      raw,
      is_training=is_training,
      input_mask=batch["input_mask"],
      return_attention=return_attention,
    )

  def loss(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns the metrics of the command, and the unreadable share."""
    ones = jnp.ones_like(batch["unreadable"])
    return {
      **self._command_metrics(outputs, batch),
      "unreadable": metrics_lib.weighted(batch["unreadable"], ones),
    }

  def _command_metrics(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> Metrics:
    """Returns the sum of the cross-entropies and the accuracy of each part.

    A part of the command that is -1 has no cross-entropy and counts neither as
    right nor as wrong.
    """
    weights = batch.get("mask", np.ones(len(batch["action"]), np.float32))
    losses, metrics = 0.0, {}
    is_correct = jnp.ones(len(weights), bool)
    has_any = jnp.zeros(len(weights), bool)
    for name in features.TARGETS:
      target, logits = batch[name], outputs.logits[name]
      known = target >= 0
      label = jnp.maximum(target, 0)
      cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), label
      )
      losses += jnp.where(known, cross_entropy, 0)
      correct = metrics_lib.in_top_k(logits, label, 1)
      is_correct &= correct | ~known
      has_any |= known
      metrics[f"{name}_accuracy"] = metrics_lib.weighted(
        correct, weights * known
      )
    return {
      "loss": metrics_lib.weighted(losses, weights),
      "command_accuracy": metrics_lib.weighted(is_correct, weights * has_any),
      **metrics,
    }

  def metrics(self, outputs: perceiver.Outputs, batch: Batch) -> Metrics:
    """Returns those of the command, and the accuracy of the target by group."""
    metrics = dict(self._command_metrics(outputs, batch))
    label = jnp.maximum(batch["target"], 0)
    correct = metrics_lib.in_top_k(outputs.logits["target"], label, 1)
    known = batch["mask"] * (batch["target"] >= 0)
    for index, name in enumerate(self.group_names):
      metrics[f"target_accuracy/{name}"] = metrics_lib.weighted(
        correct, known * (batch["group"] == index)
      )
    return metrics

  def probabilities(self, logits: Mapping[str, jax.Array]) -> Mapping[str, Any]:
    """Returns the probabilities of each part of the command."""
    return {name: jax.nn.softmax(logits[name]) for name in features.TARGETS}

  def summary_images(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[str, np.ndarray]:
    """Draws battles with recorded and predicted commands."""
    battles = self._battles(outputs, batch)
    names = self._metadata["unit_type_names"]
    if not battles:
      return {}
    sheet = battle_maps.draw_sheet(list(battles.values()), names)
    return {"commands": sheet}

  def report_sections(
    self,
    outputs: perceiver.Outputs,
    batch: Batch,
    metrics: Mapping[str, np.ndarray],
  ) -> list[sections.Section]:
    """Returns battles with recorded and predicted commands."""
    del metrics
    battles = self._battles(outputs, batch)
    shown = list(battles.values())
    if not shown:
      return []
    markers = battle_maps.shapes(shown)
    samples = []
    for i, battle in battles.items():
      label, prediction = int(batch["action"][i]), outputs.logits["action"][i]
      prediction = int(np.argmax(prediction))
      pairs = [
        (label, prediction),
        *zip(battle.recorded, battle.predicted, strict=True),
      ]
      samples.append(
        battle_maps.BattleSample(
          battle_maps.draw_svg(battle, markers),
          self.group_names[batch["group"][i]] if self.group_names else "",
          self.class_names[label] if label >= 0 else "",
          self.class_names[prediction],
          all(right in (features.NONE, guess) for right, guess in pairs),
        )
      )
    legend = battle_maps.legend_svg(
      shown, markers, self._metadata["unit_type_names"]
    )
    through_latents = outputs.decoder_attention is not None
    return [battle_maps.battle_samples(samples, legend, through_latents)]

  def _battles(
    self, outputs: perceiver.Outputs, batch: Batch
  ) -> dict[int, battle_maps.Battle]:
    """Returns what is to be drawn of a batch, by position in it.

    The attention is that of the predicted target's output query, or without
    such queries that of the pointer, which are the probabilities of the target.
    """
    battles = {}
    for i in np.flatnonzero(batch["mask"])[:_MAX_DRAWN]:
      real = np.asarray(batch["input_mask"][i])
      categories, numbers = batch["categories"][i], batch["numbers"][i]
      # Every living unit has some health; 0 stands for an unknown one.
      health = features.number(numbers, "health_ratio")
      predicted = [
        int(np.argmax(outputs.logits[name][i])) if real.any() else features.NONE
        for name in ("selected", "target")
      ]
      attention = special.softmax(outputs.logits["target"][i])[real]
      if outputs.decoder_attention is not None:
        attention = attention_maps.output_attention(
          [logits[i] for logits in outputs.encoder_attention],
          outputs.decoder_attention[i],
        )[predicted[1], real]
      battles[int(i)] = battle_maps.Battle(
        (1 + batch["positions"][i][real]) * (features.MAP_SIZE / 2),
        features.category(categories, "alliance")[real],
        features.category(categories, "unit_type")[real],
        np.where(health > 0, health, np.nan)[real],
        battle_maps.Command(int(batch["selected"][i]), int(batch["target"][i])),
        battle_maps.Command(*predicted),
        attention,
      )
    return battles
