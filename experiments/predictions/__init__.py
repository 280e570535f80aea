"""Commands of `experiments.predict`, one module each.

`models` and `flow_model` load models, and `outputs` prints and saves results.
"""
