# What `launch/quickstart.sh gpt` runs once there is text; it reads this file.

stage 'Preparation: trains a byte-level BPE vocabulary and turns the text into tokens; whole modules are held out'
prepare byte_bpe

stage 'Pre-training: each token predicts the next; stopped part way, then resumed by the same command'
pretrain --config=configs/gpt_small_corpus.py

stage 'Evaluation on the held-out modules, beside what frequencies alone reach'
run -m t5x_lite.evaluate --workdir="$runs/pretrained" --config.eval.batches=0

stage 'Generation: a sample as it is written, beams, and given continuations ranked'
run -m t5x_lite.predict --workdir="$runs/pretrained" --text='Return the' --config.decode.method=sample --config.decode.temperature=0.7 \
    --config.decode.max_new_tokens=80 | tee "$runs/sample.txt"
run -m t5x_lite.predict --workdir="$runs/pretrained" --text='Return a list of' --config.decode.method=beam --config.decode.max_new_tokens=20
run -m t5x_lite.predict --workdir="$runs/pretrained" --text='If the file does not exist, raise' --choices=' an error.| the list.| zero.'

stage 'Report: curves and a table'
run -m t5x_lite.report --workdirs="$runs/pretrained" --metrics=lm_loss,lm_accuracy --output="$runs"
