"""llama.cpp's server with one model, in a process of its own. Prints its address; ends when its standard input does."""

import json
import sys

import xllamacpp


def main() -> None:
    job = json.loads(sys.argv[1])
    params = xllamacpp.CommonParams()
    params.model.path = job["model"]
    params.n_ctx, params.n_parallel, params.n_batch = job["context"], 1, max(job["context"], 32)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.use_jinja = True
    params.swa_full = True  # else what is left of a prompt in a sliding window is taken for all of it by the next one
    params.endpoint_props = True
    params.warmup = False
    params.n_gpu_layers = 0
    params.verbosity = 1
    for threads in (params.cpuparams, params.cpuparams_batch):
        threads.n_threads, threads.poll = job["threads"], 0  # threads that spin while they wait slow a busy machine
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # the file is proven, not a cache
    if job["lora"]:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path=job["lora"], scale=1.0)]
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
