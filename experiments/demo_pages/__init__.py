"""Pages of `experiments.demo`, one module per kind of model.

`page` defines what a page is, `interface` and `server` show one with Gradio.
Nothing else imports Gradio.
"""
