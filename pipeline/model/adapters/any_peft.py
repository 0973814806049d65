"""PEFT's other configurations, by the names of their classes: those that held every proof of `pipeline.model.proofs`, and went
through the chain, in the pinned version. Nothing more is known of them, so they serve alone on their base, in stages without a
reward, and stay beside it.
"""

from pipeline.model.adapters.method import ALL_LINEAR, NOT_ITSELF, SCORE, Method

_CANNOT = {SCORE: "no score head beside it has been proven here; take lora"}
_HELD = """BeftConfig C3AConfig DeftConfig DeloraConfig FourierFTConfig FrodConfig GloraConfig GraloraConfig HiraConfig
    OSFConfig PeanutConfig RandLoraConfig RoadConfig ShiraConfig SupertuningConfig TinyLoraConfig UniLoraConfig
    VBLoRAConfig WaveFTConfig"""
_ALL_THAT_IT_IS = "an artifact has to hold all that it is"
_REFUSED = {
    "FrodConfig": {"save_projection": _ALL_THAT_IT_IS, "progressbar": "a stage has its own"},
    "RandLoraConfig": {"save_projection": _ALL_THAT_IT_IS},
    "SupertuningConfig": {"save_precomputed_indices": _ALL_THAT_IT_IS},
    "TinyLoraConfig": {"save_projection": _ALL_THAT_IT_IS},
    "UniLoraConfig": {"save_indices": _ALL_THAT_IT_IS},
    "VBLoRAConfig": {"save_only_topk_weights": "what is left could not be trained on"},
}
_DEFAULTS: dict[str, dict[str, object]] = {
    "FrodConfig": {"progressbar": False},
    "UniLoraConfig": {"save_indices": True},
}
_BEGINNING = {"init_weights": NOT_ITSELF}
BY_CLASS = tuple(
    Method(
        name=config,
        when="as PEFT's documentation says; proven here on a tiny model, and not tried further",
        config=config,
        peft_type=config.removesuffix("Config").upper(),
        defaults=ALL_LINEAR | _DEFAULTS.get(config, {}),
        refused=_REFUSED.get(config, {}) | ({} if config == "VBLoRAConfig" else _BEGINNING),
        cannot=_CANNOT,
        beside=False,
        merged=False,
        by_class=True,
    )
    for config in _HELD.split()
)
# What did not hold.
NOT_HELD = {
    "PsoftConfig": "a part of it is computed from the base anew when it is loaded, and may be another on another machine",
    "AdamssConfig": "its clusters are computed from the base anew when it is loaded, and may be others on another machine",
    "LilyConfig": "padding on the left changes what the model says",
    "PveraConfig": "it draws random numbers anew when activations are recomputed, and the gradients are others",
    "CPTConfig": "what is saved cannot be loaded into the same base",
    "TrainableTokensConfig": "it trains nothing but rows of the embeddings",
    "AdaptionPromptConfig": "it goes into models of some kinds alone",
    "CartridgeConfig": "it begins with the keys and values of a text",
    "MultitaskPromptTuningConfig": "each row would have to name its task",
    "PolyConfig": "each row would have to name its task",
    "ShadowConfig": "what its layers yield the next ones cannot take",
    "XLoraConfig": "it mixes adapters that are trained already",
}
