"""Every field of a run and its default, in one place.

A run is a pure function of one `Config`. Each field is reachable by an absl flag, `--config.optim.learning_rate=1e-4`, so that an ablation is flags and
nothing else. A config file is a Python file with `get_config(variant)` that returns a `Config` (see configs/).

Flags set enums by name (`--config.model.activation=gelu_tanh`), tuples as Python literals (`--config.data.stages="((0, 128, 256, 20),)"`) and tuples of
strings also as `a,b`.
"""

import dataclasses
import enum
from typing import Any


class Activation(enum.Enum):
    gelu = 'gelu'  # the erf form: released Hugging Face weights
    gelu_tanh = 'gelu_tanh'  # the original BERT code
    relu = 'relu'


class NormPlace(enum.Enum):
    post = 'post'  # norm(x + f(x)): BERT, GPT-1
    pre = 'pre'  # x + f(norm(x)), and a norm at the end: GPT-2, T5


class Norm(enum.Enum):
    layer = 'layer'  # Ba et al. (2016)
    rms = 'rms'  # Zhang & Sennrich (2019), as T5 has it: no mean, no bias


class Positions(enum.Enum):
    learned = 'learned'  # a table of max_positions rows, added to the embeddings
    relative = 'relative'  # T5's bias by bucketed distance, shared by the layers of a stack (Raffel et al., 2020)
    none = 'none'


class Init(enum.Enum):
    truncated_normal = 'truncated_normal'  # BERT: init_stddev, cut at two of them
    normal = 'normal'  # GPT-1
    residual = 'residual'  # GPT-2: normal with init_stddev, divided by sqrt(2 x layers) where a block writes to the residual stream
    fan_in = 'fan_in'  # T5: variance 1 / inputs of each product, queries 1 / (inputs x head size), embeddings 1


class PositionInit(enum.Enum):
    normal = 'normal'  # as other embeddings: BERT
    sinusoidal = 'sinusoidal'  # Vaswani et al. (2017), scaled to init_stddev, then learnt


class Layout(enum.Enum):
    """How an example reaches the model; each module says which it reads."""

    auto = 'auto'  # the module's
    encoder = 'encoder'  # one sequence, predictions at masked positions or at all
    decoder = 'decoder'  # one sequence, each token predicts the next
    encoder_decoder = 'encoder_decoder'  # inputs and targets


class Pooling(enum.Enum):
    """How a head summarises a sequence."""

    auto = 'auto'  # the body's own: BERT's pooler over [CLS], a decoder's last token, the mean over an encoder-decoder's inputs
    cls = 'cls'  # the first token, through the pooler where the body has one
    mean = 'mean'  # over real tokens
    last = 'last'  # the last real token


class LayerMix(enum.Enum):
    """What a head that reads several layers makes of them."""

    weighted = 'weighted'  # their sum with learnt weights, a softmax, times a learnt factor (ELMo: Peters et al., 2018; Tenney et al., 2019)
    concatenated = 'concatenated'  # side by side (Devlin et al., 2018, table 7)


class Rates(enum.Enum):
    """Of the tasks of a mixture."""

    proportional = 'proportional'  # min(examples, maximum) ** (1 / temperature) (Raffel et al., 2020, section 3.5.2)
    equal = 'equal'
    given = 'given'


class TooLong(enum.Enum):
    truncate = 'truncate'  # and count
    refuse = 'refuse'


class Decoding(enum.Enum):
    greedy = 'greedy'
    sample = 'sample'
    beam = 'beam'


class BeamScore(enum.Enum):
    gnmt = 'gnmt'  # over ((5 + length) / 6) ** length_penalty (Wu et al., 2016), as in T5
    transformers = 'transformers'  # over length ** length_penalty, with that library's rules


class Adapters(enum.Enum):
    """Bottlenecks that learn between what does not."""

    none = 'none'
    houlsby = 'houlsby'  # after attention and feed-forward (Houlsby et al., 2019)
    pfeiffer = 'pfeiffer'  # after the feed-forward (Pfeiffer et al., 2021)


class Features(enum.Enum):
    """States of a body that are computed once and kept, while the head alone learns (Devlin et al., 2018, section 5.3; Peters et al., 2019)."""

    none = 'none'
    static = 'static'  # the embedding layer's: nothing of the context
    contextual = 'contextual'  # the body's output, or those of model.read_layers


class DType(enum.Enum):
    float32 = 'float32'
    bfloat16 = 'bfloat16'
    float16 = 'float16'  # for GPUs without bfloat16; the loss is scaled (optim.loss_scale)


class Remat(enum.Enum):
    none = 'none'  # keep every activation
    dots = 'dots'  # keep products with weights, recompute the rest
    full = 'full'  # keep block inputs only


class Whole(enum.Enum):
    """Whether checkpoints hold all parameters, or what learns beside those of `init_from`, which then must stay where they are."""

    auto = 'auto'  # no with adapters, prefixes and prompts, else yes
    yes = 'yes'
    no = 'no'


class AttentionKernel(enum.Enum):
    dense = 'dense'  # XLA, scores in memory
    blockwise = 'blockwise'  # XLA, a tile of the scores at a time: memory grows with the length, not with its square
    cudnn = 'cudnn'  # NVIDIA, bf16 or fp16, without attention dropout and relative positions
    splash = 'splash'  # TPU, without attention dropout and relative positions
    auto = 'auto'  # by device, shape and features (t5x_lite/models/kernels.py); train says which


class SequenceAttention(enum.Enum):
    """How attention meets the keys and values of a row that is divided over the mesh's sequence axis."""

    gather = 'gather'  # each device has those of the whole row
    ring = 'ring'  # each device has its own, and sees the others' one after another (Liu et al., 2023)


class DropoutBits(enum.Enum):
    """What draws dropout: a function of seed, step, layer, row and position, made where it is used. The mesh, and how a step is cut up, change nothing."""

    hash = 'hash'  # two rounds of an integer hash
    threefry = 'threefry'  # the generator of jax.random (Salmon et al., 2011); slower


class Masking(enum.Enum):
    dynamic = 'dynamic'  # new masks every epoch
    static = 'static'  # masks of `duplicates` epochs, then the same again


class Optimizer(enum.Enum):
    adamw = 'adamw'
    lamb = 'lamb'
    adafactor = 'adafactor'


class Schedule(enum.Enum):
    constant = 'constant'
    linear = 'linear'  # from the end of the warm-up to the last step
    linear_from_start = 'linear_from_start'  # from step 0, cut off by the warm-up: google-research/bert
    cosine = 'cosine'
    inverse_sqrt = 'inverse_sqrt'
    rising = 'rising'  # exponentially, from 1e-7 of the rate to all of it at the end of the warm-up: `train --find_learning_rate`


class NonFinite(enum.Enum):
    stop = 'stop'
    skip = 'skip'


class Best(enum.Enum):
    auto = 'auto'  # the lowest of a loss, an entropy, an error or a perplexity, else the highest
    lowest = 'lowest'
    highest = 'highest'


@dataclasses.dataclass
class ModelConfig:
    """A transformer made of fields; a variant is fields, not a file."""

    module: str = ''  # dotted name of a linen module, 'bert_flax.bert:BertForPreTraining'
    vocab_size: int = 0  # 0: the tokenizer's, or `default_vocab_size` where there are no data
    default_vocab_size: int = 30522  # BERT's
    vocab_multiple: int = 128  # the stored vocabulary is rounded up to this, so that meshes divide it; counts and exports are unpadded
    num_layers: int = 12
    num_decoder_layers: int = 0  # of an encoder-decoder; 0: num_layers
    d_model: int = 768
    num_heads: int = 12
    head_size: int = 0  # 0: d_model / num_heads
    d_ff: int = 3072
    max_positions: int = 512
    num_segments: int = 2
    activation: Activation = Activation.gelu
    gated: bool = False  # activation(x W1) * (x W2) in the feed-forward (Shazeer, 2020)
    use_bias: bool = True  # of products
    norm: Norm = Norm.layer
    norm_place: NormPlace = NormPlace.post
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    hidden_dropout: float = 0.0  # inside the feed-forward, after the activation: T5
    output_dropout: float = 0.0  # after the last norm of a stack: T5
    dropout_bits: DropoutBits = DropoutBits.hash
    init_stddev: float = 0.02
    init: Init = Init.truncated_normal
    positions: Positions = Positions.learned
    position_init: PositionInit = PositionInit.normal
    relative_buckets: int = 32
    relative_max_distance: int = 128  # all that is further off shares the last bucket
    scale_attention: bool = True  # scores divided by sqrt(head_size); T5 has that in its initialisation
    causal: bool = False  # an encoder that attends to the left only, for language modelling; decoders always do
    local_window: int = 0  # every second layer attends to so many tokens back only (GPT-3's banded layers); 0: none does
    tie_embeddings: bool = True  # of decoders: input embeddings are the output layer
    scale_logits: bool = False  # T5 1.0: states times d_model ** -0.5 before tied embeddings
    dtype: DType = DType.float32  # of activations and of operands of matrix products; parameters and accumulation are float32
    scan_layers: bool = True  # one compiled layer, looped over; False unrolls the loop. Same parameters, same numbers
    remat: Remat = Remat.none
    attention: AttentionKernel = AttentionKernel.auto
    # Logits of a language model that a device holds at once, in float32, while it learns or is evaluated: more are made in chunks of positions. 0: all at once.
    logits_megabytes: float = 128.0
    project_all_positions: bool = False  # MLM logits at every position instead of the masked ones only (same loss, more work)
    body: str = ''  # what a head is put on, dotted name of 'bert_flax.bert:Bert' or the like; '': what the module says, else that of `init_from`
    pooling: Pooling = Pooling.auto  # of heads over a whole sequence
    # Layers whose states heads read: 0 the embeddings, 1 the first layer, -1 the last. (): the body's output, and [CLS] of it through BERT's pooler, which
    # layers that are named here do without.
    read_layers: tuple[int, ...] = ()
    layer_mix: LayerMix = LayerMix.weighted  # of several
    num_labels: int = 0  # fine-tuning heads; 1 is regression; of ChoiceHead, choices of a question. 0: found in the data
    head_bias: bool = True  # of a head's layer; GPT-2 in transformers classifies without
    crf: bool = False  # tags of tokens are scored together, with learnt transitions between them (Lample et al., 2016)
    crf_legal: tuple[str, ...] = ()  # which tag may follow which, where only legal ones are decoded: found in the data (data.legal_tags)


@dataclasses.dataclass
class MlmConfig:
    """Masked language modelling (Devlin et al., 2018, section 3.1)."""

    probability: float = 0.15
    validation_probability: float = 0.0  # of held-out data, so that runs that mask more or less can be compared; 0: the same
    max_predictions: int = 0  # a sequence; 0: probability x length, rounded up. Stages give their own
    short_sequence_probability: float = 0.1
    whole_words: bool = False
    masking: Masking = Masking.dynamic
    duplicates: int = 10  # different maskings of the corpus when masking is static


@dataclasses.dataclass
class LmConfig:
    """Prefix language modelling."""

    prefix_fraction: tuple[float, float] = (0.0, 1.0)  # the share of a sequence that a prefix LM only reads: drawn uniformly between these


@dataclasses.dataclass
class SpanConfig:
    """Span corruption (Raffel et al., 2020, section 3.1.4) and mixtures of denoisers (Tay et al., 2022)."""

    noise_density: float = 0.15
    mean_length: float = 3.0  # tokens of a corrupted span
    # UL2's ((mode token or '', mean span length, noise density, rate), ...); mean length 0 is a prefix LM that predicts `noise density` of the sequence.
    denoisers: tuple[tuple[str, float, float, float], ...] = (
        ('[NLU]', 3.0, 0.15, 1.0), ('[NLU]', 8.0, 0.15, 1.0),
        ('[NLG]', 3.0, 0.5, 1.0), ('[NLG]', 8.0, 0.5, 1.0), ('[NLG]', 64.0, 0.15, 1.0), ('[NLG]', 64.0, 0.5, 1.0),
        ('[S2S]', 0.0, 0.25, 1.0),
    )  # fmt: skip


@dataclasses.dataclass
class TaskConfig:
    """Text-to-text tasks and their mixture."""

    names: tuple[str, ...] = ()  # registered tasks or mixtures
    files: tuple[str, ...] = ()  # Python files of yours that register some
    rates: Rates = Rates.proportional
    weights: tuple[float, ...] = ()  # one a name, for rates=given
    maximum: int = 2**19  # of examples that count of a task, for rates=proportional
    temperature: float = 1.0
    too_long: TooLong = TooLong.truncate  # inputs and targets beyond data.seq_len and data.target_len
    pack: bool = True  # several examples in a row, attention isolated
    # A task made of config.data.train, a table, by templates over its columns: 'review: {text}', '{label}'.
    inputs: str = ''
    targets: str = ''
    metrics: tuple[str, ...] = ('exact_match',)
    turns: bool = False  # rows are dialogues, each reply in them an example with {context} and {reply} (t5x_lite.tasks.dialogues)
    keep_end: bool = False  # of inputs that are too long, not their beginning: the newest of a dialogue


@dataclasses.dataclass
class AugmentConfig:
    """Training texts of labelled tables, changed a little each time they are read (t5x_lite/data/augmenting.py); held-out ones never are."""

    deletion: float = 0.0  # of words, left out
    swap: float = 0.0  # of words, each changing places with another
    synonyms: float = 0.0  # of words, replaced by what the masked language model of `init_from` takes for one
    candidates: int = 5  # synonyms of a word, one of which is drawn each time
    copies: int = 0  # changed ones of each example in an epoch, beside itself; 0: it is changed itself
    file: str = ''  # of synonyms; '': made before training, and kept in the workdir


@dataclasses.dataclass
class DataConfig:
    """Where examples come from and how they are made. The global batch of a step is a pure function of (seed, step)."""

    source: str = ''  # dotted name of the class that makes examples, 'bert_flax.objectives:MlmNsp'
    path: tuple[str, ...] = ()  # what `prepare` wrote; several are mixed
    weights: tuple[float, ...] = ()  # one a path; (): in proportion to their tokens
    layout: Layout = Layout.auto
    # Language models' documents follow each other in one stream with an end-of-text token after each, rows are windows of it, and attention crosses
    # documents (GPT-2, GPT-3, T5). False: a document is a sequence of its own in a packed row, attention and positions isolated.
    concatenate: bool = False
    seq_len: int = 128
    target_len: int = 0  # of an encoder-decoder's targets; 0: what the objective makes of seq_len
    # ((from_step, seq_len, batch_size, max_predictions), ...): sequence length and batch size that change as the run goes. () is one stage of
    # (0, seq_len, batch_size, mlm.max_predictions or target_len).
    stages: tuple[tuple[int, int, int, int], ...] = ()
    mlm: MlmConfig = dataclasses.field(default_factory=MlmConfig)
    lm: LmConfig = dataclasses.field(default_factory=LmConfig)
    span: SpanConfig = dataclasses.field(default_factory=SpanConfig)
    tasks: TaskConfig = dataclasses.field(default_factory=TaskConfig)
    workers: int = 0  # loader processes; 0: threads of this one. They never change what is loaded
    prefetch: int = 4  # batches made ahead of time

    # Labelled tables: csv, tsv, jsonl (.gz too) or tfds:NAME.
    train: str = ''
    validation: str = ''  # '': `validation_fraction` of `train`, chosen by seed
    validation_fraction: float = 0.1
    folds: int = 0  # instead, `train` is divided into so many parts by seed, and part number `fold`, from 0, is held out (cross-validation); 0: none
    fold: int = 0
    text_columns: tuple[str, ...] = ()  # one or two; names, or numbers from 0 where there is no header. (): guessed, and said
    label_column: str = ''  # '': guessed, and said
    labels: tuple[str, ...] = ()  # label names in the order of their ids; (): found in `train`, sorted
    regression: bool = False
    label_separator: str = ''  # between the labels of an example that may have any number of them: 'toxic|insult'; '': each has one
    label_threshold: float = 0.5  # of those, labels whose probability is above this are given
    # What classes (or tags) weigh in the loss: balanced, or a number a label in their order; of sets of labels, what one that is there weighs. (): alike
    class_weights: tuple[str, ...] = ()
    baselines: bool = True  # what a majority vote and a bag of words reach is printed before fine-tuning starts
    tokenizer: str = ''  # a tokenizer folder; '': the one beside `path` or `init_from`
    length_buckets: tuple[int, ...] = ()  # pad a batch to the first that holds it; (): always seq_len
    # Training batches are of texts of like length, so that little of them is padding: the same examples an epoch in another order (data/in_epochs.py).
    group_by_length: bool = False
    # Or texts share rows of seq_len tokens, each by itself, and batch_size counts rows (data/packed_texts.py); the body must know texts apart in a row.
    pack: bool = False
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    max_examples: int = 0  # fine-tune on a subset drawn by seed; 0: all
    # Tagged words: `train` and `validation` are column files (CoNLL), text_columns and label_column the numbers of the word's and the tag's column from 0.
    tag_scheme: str = ''  # how the files mark entities: IOB1, IOB2, BIOES, ...; none: tags are no entities (parts of speech); '': guessed, and said
    tag_scheme_out: str = ''  # the scheme that is learnt and predicted; '': IOB2
    legal_tags: bool = True  # of a conditional random field: what the scheme forbids is never decoded
    every_piece: bool = False  # each piece of a word is labelled, not the first alone
    # Questions with choices: text_columns are the question's, of which a second stands right before each choice (SWAG's beginning of a sentence).
    choice_columns: tuple[str, ...] = ()  # one a choice, or one of jsonl that holds lists; (): guessed, and said
    choice_labels: str = ''  # what label_column says of the right one: from_0, from_1 (its number), letter or text; '': guessed, and said
    # Questions about texts: `train` and `validation` are json files of SQuAD's form. Tokens are counted.
    stride: int = 128  # from the beginning of a window of a text to that of the next
    max_question: int = 64  # of a question that are read
    max_answer: int = 30  # of an answer
    no_answers: bool = False  # questions may have none (SQuAD 2.0)
    no_answer_threshold: float = 0.0  # no answer is given where its score exceeds the best span's by more
    tfds_dir: str = ''  # where TFDS keeps its data; '': its default


@dataclasses.dataclass
class HeadModelConfig:
    """The fields of ModelConfig that each of several heads has of its own."""

    module: str = ''  # a head, 't5x_lite.models.heads:TokenHead'
    pooling: Pooling = Pooling.auto
    num_labels: int = 0
    crf: bool = False
    crf_legal: tuple[str, ...] = ()
    head_bias: bool = True


@dataclasses.dataclass
class HeadConfig:
    """One of several heads that learn together on one body (t5x_lite/several.py). Fields are those of a run of this head alone."""

    name: str = ''  # its parameters lie at heads/NAME/, its scores are NAME/accuracy, its flags --config.heads.NAME.data.train=FILE
    weight: float = 1.0  # of its loss
    rate: float = 1.0  # of its batches, for mix.rates=given
    metric: str = ''  # which of its scores counts in the average; '': accuracy, pearson or micro_f1, whichever it has
    loss: str = ''
    model: HeadModelConfig = dataclasses.field(default_factory=HeadModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


@dataclasses.dataclass
class MixConfig:
    """How often each of several heads has a batch."""

    rates: Rates = Rates.proportional  # to their examples
    maximum: int = 2**19  # of examples that count of a head, for rates=proportional
    temperature: float = 1.0


@dataclasses.dataclass
class OptimConfig:
    name: Optimizer = Optimizer.adamw
    learning_rate: float = 1e-4
    schedule: Schedule = Schedule.linear
    warmup_steps: int = 0
    warmup_fraction: float = 0.0  # of `steps`; used when warmup_steps is 0
    end_fraction: float = 0.0  # the rate at the last step, as a share of the highest (linear, cosine)
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    bias_correction: bool = True  # the original BERT has none
    # (pattern, weight decay) over parameter paths; the first match wins, and every parameter and every rule must match.
    decay: tuple[tuple[str, float], ...] = (('.*/(bias|scale)', 0.0), ('.*', 0.01))
    decay_to_init: bool = False  # weight decay draws towards where training began instead of 0 (L2-SP), but for what is new or added
    # Adam's and LAMB's two moments as they are stored. bfloat16, rounded at random so that their mean is right, takes half the memory.
    moment_dtype: DType = DType.float32
    clip_norm: float = 1.0  # 0: none
    microbatches: int = 1  # gradient accumulation: a batch in this many parts, exactly
    nonfinite: NonFinite = NonFinite.stop
    # With model.dtype=float16: what the loss is multiplied by at first, and gradients are divided by. Halved where one is not finite, which passes over the
    # step; doubled after loss_scale_steps finite ones in a row (training/loss_scale.py).
    loss_scale: float = 2.0**16
    loss_scale_steps: int = 2000


@dataclasses.dataclass
class TuneConfig:
    """What learns, and how fast. Patterns match whole parameter paths, in which a layer has its number: encoder/layers/3/mlp/wi/kernel."""

    train: tuple[str, ...] = ()  # only what matches one of these learns; (): everything
    freeze: tuple[str, ...] = ()  # what does not learn, whatever `train` says
    freeze_layers: float = 0.0  # so many layers at the bottom of each stack, or (below 1) that share of its depth, do not learn, nor the embeddings
    rates: tuple[tuple[str, float], ...] = ()  # (pattern, factor on the learning rate); the first match wins, 1 for what none matches
    # Parameters put beside the model's. With any of these only they learn, what is new (init_fresh), and what `train` names.
    lora: tuple[tuple[str, int, float], ...] = ()  # (pattern of layers with a kernel, rank, alpha): ('.*/attention/(query|value)', 8, 16.0)
    adapters: Adapters = Adapters.none
    adapter_size: int = 64
    ia3: bool = False  # vectors on keys, values and hidden units (Liu et al., 2022)
    prefix: int = 0  # so many keys and values in front of those of every self-attention (Li & Liang, 2021)
    prefix_cross: bool = False  # and in front of what cross-attention reads
    prompt: int = 0  # so many virtual tokens in front of the embeddings (Lester et al., 2021); of an encoder-decoder, the encoder's
    # ((step, or share of all steps below 1, pattern, factor on the learning rate), ...): what starts frozen and learns from then on, whatever the fields
    # above say. A later entry that matches it too changes its rate. Moments and bias correction of the optimiser begin then.
    unfreeze: tuple[tuple[float, str, float], ...] = ()
    unfreeze_by_epoch: bool = False  # these begin at epochs (1.0: when all examples were seen once), not at steps or shares
    mixout: float = 0.0  # probability that, at a step, a weight that learns is the pretrained one (Lee et al., 2020): 0.7 to 0.9 there
    features: Features = Features.none  # with them only what is new (init_fresh) learns, and what `train` names
    feature_cache: str = ''  # a folder for them that runs may share; '': WORKDIR/features
    feature_dtype: DType = DType.float32  # as they are kept; bfloat16 takes half the room
    layer_decay: float = 1.0  # factor for each layer further below the top; embeddings lie below all layers


@dataclasses.dataclass
class MeshConfig:
    """Devices along each axis; -1 takes what is left. `rules` map logical axes (named beside each parameter) to mesh axes."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    sequence: int = 1
    sequence_attention: SequenceAttention = SequenceAttention.gather
    # TPU slices, or hosts of GPUs: fast links within, the data-centre network between. -1: as many as the devices say, so that one config runs on any number;
    # another number must be theirs. Devices that do not say (a CPU's) are made into so many, in their order. One axis goes across, the others stay within.
    slices: int = -1
    slices_along: str = 'data'
    # In which devices add up the parts of a product that each has made (activations over `tensor`, gradients of weights over `data` and `fsdp`). bfloat16, with
    # model.dtype=bfloat16, sends half the bytes. Weights are sent in model.dtype in any case: that changes no number.
    collective_dtype: DType = DType.float32
    # Weights that fsdp divides are sent from device to device a layer or more ahead, once a step, and kept whole in model.dtype for the backward pass: 2 bytes
    # a parameter in bfloat16 on each device, for one gather instead of two, or of three with model.remat=full (models/gathering.py). The output layer's table
    # goes along with the layers, and rows of embeddings are sent while others are looked up. Needs collective_dtype=model.dtype. Layers
    # below the first that learns, and those whose states are read, are gathered where they are used.
    gather_ahead: bool = False
    # With it, in turns along the sides of a torus: so many devices of the axis send each other what they have in one turn, of more than four by halves, a turn
    # each, neighbours last. 4 is what pods are made of; a v5e of more than 4 x 4 chips sends beside other work only to chips up to two away: 2; rings of eight
    # (v5p:8x8x8): 8.
    gather_side: int = 4
    # With it, gradients of these weights go back the same way, layers behind, instead of being added up where they are made. Where XLA does that beside the
    # product that makes them (a v5e), it takes less time unless batches are small; where it waits for it (v5p), this does not.
    sum_behind: bool = False
    # With both, and model.remat=full: weights are sent a second time, in the backward pass, instead of being kept whole (models/gathering_again.py). For models
    # that no chip has room for otherwise.
    gather_again: bool = False
    rules: tuple[tuple[str, Any], ...] = (
        ('batch', ('data', 'fsdp')),
        ('length', 'sequence'),
        ('vocab', 'tensor'),
        ('embed', 'fsdp'),  # of parameters
        ('heads', 'tensor'),  # heads x head size, joined
        ('mlp', 'tensor'),
        ('activation_embed', None),
        ('norm', None),
        ('layers', None),
        ('positions', None),
        ('segments', None),
        ('buckets', None),
        ('labels', None),
    )


@dataclasses.dataclass
class CheckpointConfig:
    every_steps: int = 1000
    keep_last: int = 3
    keep_every_steps: int = 0  # and every checkpoint whose step is a multiple of this; 0: none
    # And the best by this held-out metric, saved after each evaluation; then evaluate, predict, convert and `init_from` take that one, not the newest.
    best_metric: str = ''
    best: Best = Best.auto
    whole: Whole = Whole.auto


@dataclasses.dataclass
class EvalConfig:
    every_steps: int = 1000  # 0: only at the end
    every_epochs: float = 0.0  # if above 0, every_steps follows from it: a share of an epoch, or several
    patience: int = 0  # evaluations in a row without a better checkpoint.best_metric after which a run ends; 0: it runs all its steps
    min_improvement: float = 0.0  # of checkpoint.best_metric that counts as one
    batches: int = 50  # of held-out data (fine-tuning always uses all of it); 0: all
    batch_size: int = 0  # 0: that of training
    examples: int = 0  # of each task, drawn by seed, that `evaluate` has answered; 0: all
    examples_while_training: int = 200  # that each evaluation of a training run has answered; 0: none


@dataclasses.dataclass
class DecodeConfig:
    """Generation, for predict and for tasks that are judged by text."""

    method: Decoding = Decoding.greedy
    max_new_tokens: int = 0  # 0: data.target_len of an encoder-decoder, else 128, or as many as the positions allow
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0  # 1: all
    min_p: float = 0.0  # tokens less likely than this share of the likeliest are left out
    repetition_penalty: float = 1.0
    beams: int = 4
    length_penalty: float = 0.6
    beam_score: BeamScore = BeamScore.gnmt
    early_stopping: bool = False  # of beam search, once so many answers have ended as there are beams
    samples: int = 1  # answers a prompt
    stop: tuple[str, ...] = ()  # texts at which an answer ends; as a flag one text as it stands, \n a line's end, or ('\n', 'Q:')
    shots: int = 0  # demonstrations in front of a prompt, drawn by seed from the task's training part
    rank: bool = False  # tasks with classes: the likeliest class instead of generated text
    calibrate: bool = False  # ranking by likelihood over that after a prompt without content (Zhao et al., 2021)


@dataclasses.dataclass
class LogConfig:
    every_steps: int = 10  # a line in metrics.jsonl: means over these steps
    console_seconds: float = 5.0  # a line on the terminal
    tensorboard: bool = True
    layer_norms: bool = False  # norms of parameters, gradients and updates of each layer
    profile_steps: tuple[int, ...] = ()  # (first, last): a trace for TensorBoard or Perfetto in workdir/profile
    # If above 0, a run in which no step is done for so long (compiling, evaluating and saving take their time too) says where its threads are and ends with
    # status 75, which launchers start again: what else would end a collective that never returns?
    stall_seconds: float = 0.0


@dataclasses.dataclass
class Config:
    """A run: a model, data, a loss, an optimiser and a mesh."""

    seed: int = 0
    steps: int = 1000
    epochs: float = 0.0  # if above 0, steps follow from it (fine-tuning)
    batch_size: int = 32  # of the whole mesh
    init_from: str = ''  # a workdir or checkpoint of ours, or a Hugging Face folder
    init_architecture: bool = False  # take the size of the model (ARCHITECTURE below) from `init_from`
    init_weights: bool = True  # False: only architecture and tokenizer of `init_from`, weights at random
    # Parameters that `init_from` may lack, or have in another shape (patterns over paths): they start at random. Any other such one is an error.
    init_fresh: tuple[str, ...] = ()
    loss: str = ''  # dotted name, 'bert_flax.losses:MlmNspLoss'
    z_loss: float = 0.0  # times log(Z)^2, of language-model losses: keeps logits from drifting (T5: 1e-4)
    label_smoothing: float = 0.0  # of language-model losses, spread over the other pieces; of classes, tags and choices, spread over all of them
    ema_decay: float = 0.0  # exponential moving average of the weights, used by evaluation when above 0
    deterministic: bool = False  # bitwise repeatable on a GPU too, slower
    # A folder in which compiled programs are kept: a command that is repeated on the same kind of machine, with the same versions, then begins at once.
    compilation_cache: str = ''
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    heads: tuple[HeadConfig, ...] = ()  # several on one body, each with data and a loss of its own; then `data` holds what they share
    mix: MixConfig = dataclasses.field(default_factory=MixConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    decode: DecodeConfig = dataclasses.field(default_factory=DecodeConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)


# Fields that may differ between the runs of one workdir: they change where and how a run goes, not what it computes. (Data are known by
# what is in them, wherever they lie.) Of several heads, those of each.
FREE_ON_RESUME = (
    'data.path', 'data.train', 'data.augment.file', 'data.baselines', 'data.tasks.files', 'data.tokenizer', 'data.layout', 'data.workers', 'data.prefetch',
    'data.max_answer', 'data.no_answer_threshold', 'data.label_threshold', 'data.legal_tags', 'model.crf_legal', 'tune.feature_cache', 'mesh', 'checkpoint',
    'decode', 'log',
    'model.scan_layers', 'model.remat', 'model.attention', 'model.logits_megabytes', 'deterministic',
    'compilation_cache',
)  # fmt: skip


# Fields of ModelConfig that come with a checkpoint: those that its weights fix, and how the rest of them is drawn.
ARCHITECTURE = (
    'vocab_size', 'num_layers', 'num_decoder_layers', 'd_model', 'num_heads', 'head_size', 'd_ff', 'max_positions', 'num_segments', 'activation', 'gated',
    'use_bias', 'norm', 'norm_place', 'norm_eps', 'init_stddev', 'init', 'positions', 'position_init', 'relative_buckets', 'relative_max_distance',
    'scale_attention', 'causal', 'local_window', 'tie_embeddings', 'scale_logits',
)  # fmt: skip
