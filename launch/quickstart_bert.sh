# What `launch/quickstart.sh bert` runs once there is text; it reads this file.

stage 'Preparation: trains a WordPiece vocabulary and turns the text into tokens; whole modules are held out'
prepare wordpiece

stage 'Pre-training: masked words and next sentences, short rows first; stopped part way, then resumed by the same command'
pretrain --config=configs/bert_small_corpus.py --config.data.stages='((0, 32, 64, 13), (2000, 64, 32, 26))'

stage 'Evaluation on the held-out modules, beside what counts alone reach'
run -m t5x_lite.evaluate --workdir="$runs/pretrained" --config.eval.batches=0

stage 'Fine-tuning: which family of modules does a docstring come from? 500 to learn from. First with the pre-trained weights, then with random ones'
tune=(-m t5x_lite.train --config=configs/classify.py --config.init_from="$runs/pretrained" --config.data.train="$runs/text/task/train.tsv"
    --config.data.validation="$runs/text/task/dev.tsv" --config.data.seq_len=64 --config.epochs=10 --config.optim.learning_rate=1e-3 --config.eval.every_steps=40)
run "${tune[@]}" --workdir="$runs/finetuned"
run "${tune[@]}" --workdir="$runs/from_random" --config.init_weights=false

stage 'Evaluation of both on docstrings of other classes and functions'
run -m t5x_lite.evaluate --workdir="$runs/finetuned"
run -m t5x_lite.evaluate --workdir="$runs/from_random"

stage 'Prediction: masked words, and the family of a docstring of ours'
run -m t5x_lite.predict --workdir="$runs/pretrained" --text='Return a [MASK] of all the items in the [MASK].'
run -m t5x_lite.predict --workdir="$runs/finetuned" --text='Parse the headers of a message and return the address of its sender.'

stage 'Report: curves and a table'
run -m t5x_lite.report --workdirs="$runs/pretrained,$runs/finetuned,$runs/from_random" --metrics=mlm_loss,mlm_accuracy,accuracy --output="$runs"
