# What `launch/quickstart.sh t5` runs once there is text; it reads this file.

stage 'Preparation: trains a SentencePiece vocabulary and turns the text into tokens; whole modules are held out'
prepare sentencepiece

stage 'Pre-training: spans of text are hidden and written; stopped part way, then resumed by the same command'
pretrain --config=configs/t5_small_corpus.py

stage 'Evaluation on the held-out modules, beside what frequencies alone reach'
run -m t5x_lite.evaluate --workdir="$runs/pretrained" --config.eval.batches=0

stage 'Fine-tuning: which family of modules does a docstring come from? 500 to learn from, the answer is written. With the pre-trained weights, then with random ones'
tune=(-m t5x_lite.train --config=configs/t5_tasks.py --config.init_from="$runs/pretrained" --config.data.train="$runs/text/task/train.tsv"
    --config.data.validation="$runs/text/task/dev.tsv" --config.data.tasks.inputs='family: {text}' --config.data.tasks.targets='{label}'
    --config.data.tasks.metrics=accuracy --config.data.seq_len=128 --config.data.target_len=16 --config.model.dtype=bfloat16 --config.model.scan_layers=false
    --config.batch_size=16 --config.steps=300 --config.eval.every_steps=150)
run "${tune[@]}" --workdir="$runs/finetuned"
run "${tune[@]}" --workdir="$runs/from_random" --config.init_weights=false

stage 'Evaluation of both by what they write about docstrings of other classes and functions'
run -m t5x_lite.evaluate --workdir="$runs/finetuned"
run -m t5x_lite.evaluate --workdir="$runs/from_random"

stage 'Generation: the families of docstrings of ours, as the fine-tuned model writes them, and hidden spans'
printf '%s\n' 'family: Parse the headers of a message and return the address of its sender.' 'family: Return a new thread that runs the given function.' \
    'family: Create a button with the given text and show it in the window.' >"$runs/questions.txt"
run -m t5x_lite.predict --workdir="$runs/finetuned" --input="$runs/questions.txt" | tee "$runs/sample.txt"
run -m t5x_lite.predict --workdir="$runs/pretrained" --text='Return True if the <extra_id_0> is a file.' --config.decode.method=sample --config.decode.temperature=0.9 \
    --config.decode.samples=8 --config.decode.max_new_tokens=8 --config.decode.stop='<extra_id_1>' | tee -a "$runs/sample.txt"

stage 'Report: curves and a table'
run -m t5x_lite.report --workdirs="$runs/pretrained,$runs/finetuned,$runs/from_random" --metrics=lm_loss,lm_accuracy --output="$runs"
