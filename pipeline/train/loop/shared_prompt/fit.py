"""Where a prompt may be run once for both answers, and where that pays."""

import sys
from dataclasses import dataclass, replace

import torch
from datasets import Dataset
from peft import PeftModel

from pipeline.errors import PipelineError
from pipeline.train.loop.reference import Reference
from pipeline.train.loop.shared_prompt.forward import OneSequence, ScoredSequence, body_of, mask_for
from pipeline.train.loop.shared_prompt.layout import Collator, OfWholeRows, laid_out
from pipeline.train.loop.shared_prompt.worth import worth

KEY = "share_prompt"
ATTENTIONS = ("sdpa", "eager", "flex_attention")  # those that take any mask
LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}  # whose tokens see others by the mask alone
# Of the arithmetic of two rows a pair, what one sequence may need at most. What is reckoned was within a tenth of the time
# that a CPU took, for eight shapes of rows: see docs/how-to/speed.md.
PAYS = 0.95


@dataclass(frozen=True)
class Choice:
    """Whether it is done in a stage."""

    on: bool = False

    def kept(self, reference: Reference) -> Reference:
        """Another sum of the same numbers is another rounding: each way keeps its own."""
        return replace(reference, how=f"{reference.how}, prompts once") if self.on else reference

    def put_on(self, trainer) -> None:
        """Give a trainer its batches and its models: one of DPO with a `SharedPrompt` in front, or one of a score model."""
        if not self.on:
            return
        pad, multiple = trainer.processing_class.pad_token_id, trainer.args.pad_to_multiple_of
        if trainer.model.get_output_embeddings() is None:
            trainer.data_collator = OfWholeRows(trainer.data_collator, pad, multiple)
            ScoredSequence.put_on(trainer.model)
            return
        trainer.data_collator = Collator(trainer.data_collator, pad, multiple)
        for model in (trainer.model, trainer.ref_model):
            if getattr(model, "get_output_embeddings", None):
                OneSequence.put_on(model)


def choose(wanted: bool | str, model, args, rows: Dataset) -> Choice:
    """For true, false or "auto"; what "auto" comes to is said in the log, with the reason.

    Raises PipelineError where it is asked for and cannot be right.
    """
    if wanted is False:
        return Choice()
    found = worth(model, rows)
    reason = obstacle(model, args, found.longest)
    if wanted is True and reason:
        raise PipelineError(f"{KEY}: true cannot be done here: {reason}.", f"Leave {KEY} out, or set it to false.")
    if wanted is not True and not reason:
        if torch.device(args.device).type != "cpu":
            reason = f"whether it pays has been measured on a CPU only; {KEY}: true does it here"
        elif found.work > PAYS:
            reason = f"it would not pay: about {found.work:.0%} of the arithmetic, for {found.saved:.0%} fewer tokens"
    does = f"each prompt is run once: {found.saved:.0%} fewer tokens, about {found.work:.0%} of the arithmetic"
    print(f"{KEY}: {f'no: {reason}' if reason else f'yes: {does}'}", flush=True)
    return Choice(on=reason is None)


def obstacle(model, args, longest: int) -> str | None:
    """Why what is learned would not be the same, or is not known to be; None where it would be."""
    return _of_the_arguments(model, args, longest) or _of_the_model(model, longest) or _of_a_trial(model, args)


def _of_the_arguments(model, args, longest: int) -> str | None:
    config = model.config.get_text_config()
    if "unsloth" in sys.modules:
        return "Unsloth has a forward pass of its own for this trainer"
    if args.use_liger_kernel:
        return "train.use_liger_kernel goes round the model's head"
    if args.torch_compile:
        return "it has not been tried with train.torch_compile"
    if args.max_length is not None and longest > args.max_length:
        return "rows are longer than train.max_length"
    asked = getattr(args, "router_aux_loss_coef", None)
    balanced = getattr(config, "router_aux_loss_coef", 0.0) if asked is None else asked
    if hasattr(config, "output_router_logits") and balanced:
        return "the loss that balances the experts counts every token, a prompt's twice"
    if getattr(args, "neftune_noise_alpha", None):
        return "train.neftune_noise_alpha would give both answers the same noise in their prompt"
    if _drops_out(model, args):
        return "dropout would leave out the same of the prompt for both answers"
    return None


def _drops_out(model, args) -> bool:
    """TRL switches off the modules; a number that a module keeps and hands to a function stays."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            if module.p and not args.disable_dropout:
                return True
        elif any("drop" in name and isinstance(value, float) and value > 0 for name, value in vars(module).items()):
            return True
    return False


def _of_the_model(model, longest: int) -> str | None:
    config = model.config.get_text_config()
    if isinstance(model, PeftModel) and any(one.is_prompt_learning for one in model.peft_config.values()):
        return "the adapter puts tokens of its own before the prompt"
    if config.is_encoder_decoder:
        return "the model has an encoder"
    if config._attn_implementation not in ATTENTIONS:
        return f"{config._attn_implementation} takes no mask that keeps the answers apart ({', '.join(ATTENTIONS)} do)"
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if getattr(inner, "_is_stateful", False) or set(getattr(config, "layer_types", None) or ()) - LAYERS:
        return "the model has layers that pass on a state from token to token"
    spans = [
        value
        for name, value in config.to_dict().items()
        if ("window" in name and "layers" not in name) or name == "attention_chunk_size"
        if isinstance(value, int) and value > 0
    ]
    if spans and longest > min(spans):
        return f"layers see {min(spans)} tokens at most, and the longest row has {longest}"
    return None


@torch.no_grad()
def _of_a_trial(model, args) -> str | None:
    """What the model itself says of a small pair, in one sequence and in two: not every model goes by mask and positions."""
    if torch.device(args.device).type != "cpu" and next(model.parameters()).device.type == "cpu":
        model.to(args.device)  # where the trainer will put it; an attention may run only there
    vocabulary = model.config.get_text_config().vocab_size
    prompt, chosen, rejected = ([n % vocabulary for n in range(*ends)] for ends in ((3, 12), (12, 19), (19, 24)))
    pair = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    device, training = next(model.parameters()).device, model.training
    shared = {name: value.to(device) for name, value in laid_out([pair], 0).items()}
    dtype = model.get_input_embeddings().weight.dtype
    scores = model.get_output_embeddings() is None
    run = body_of(model) if scores else model

    def says(**given: torch.Tensor) -> torch.Tensor:
        out = run(**given, use_cache=False)
        return (out.last_hidden_state if scores else out.logits)[0].float()

    model.eval()
    try:
        mask = mask_for(model.config.get_text_config()._attn_implementation, shared["sides"], dtype)
        given = {"input_ids": shared["input_ids"], "position_ids": shared["position_ids"], "attention_mask": mask}
        together = says(**given)
        off, spread = [], []
        for answer, begins in ((chosen, len(prompt)), (rejected, len(prompt) + len(chosen))):
            ids = torch.tensor([prompt + answer], device=device)
            alone = says(input_ids=ids)
            there = torch.cat([together[: len(prompt)], together[begins : begins + len(answer)]])
            off.append((there - alone).abs().mean())
            spread.append(alone.std())
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        return f"the model takes no mask and positions of ours ({' '.join(str(error).split())[:200]})"
    finally:
        model.train(training)
    # In half precision another sum is another rounding; what sees the other answer is off by far more.
    limit = 1e-4 if dtype == torch.float32 and args.device.type == "cpu" else 0.05
    if not max(off) <= limit * max(spread):
        return "the model does not keep the answers apart, or their positions, as it is told to"
    return None
