"""What runs on a GPU is one graph: the model that predicts, and a training step, which asks for no values."""

import copy

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from maskrcnn import Config, MaskRCNN
from maskrcnn.optimized.captured import Pool
from maskrcnn.optimized.cuda import CudaModel
from maskrcnn.optimized.step import compiled_step
from maskrcnn.structures import ImageBatch
from recorded import RunAgain
from test_compiled import NETWORKS, SMALL, assert_same, network, targets

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.filterwarnings("default"),  # compilers warn of themselves
]
ASKS = ("_local_scalar_dense", "nonzero", "item", "_assert_async", "masked_select", "unique")


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


class Noting:
    """A compiler that notes the operators of each graph it is given, and runs them as they are."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, inputs):
        names = []
        for module in graph.modules():
            if isinstance(module, torch.fx.GraphModule):
                names += [
                    str(node.target) for node in module.graph.nodes if isinstance(node.target, torch._ops.OpOverload)
                ]
        self.graphs.append(names)
        return graph.forward


def test_model_compiles_for_few_sizes_and_serves_all():
    model, noting = network("fpn"), Noting()
    fast = CudaModel(
        model,
        torch.float32,
        backend=noting,
        capture=lambda run, inputs, pool: RunAgain(run, inputs),
        new_pool=lambda device: Pool(None, None),
    )
    sizes = [(1, 128, 160), (1, 160, 192), (1, 192, 160), (1, 160, 224)]
    for count, height, width in sizes:
        batch = ImageBatch.of(torch.randn(count, 3, height, width), model.config.image)
        with torch.no_grad():
            assert_same(fast.detect(batch), model(batch))
    assert fast.compiled
    assert len(fast.graphs) == len(sizes)
    # For the first size and for all others, which on a CPU differ in the kernel that oneDNN takes for a convolution.
    assert len(noting.graphs) <= 3


def boxed(compiler):
    return lambda graph, inputs: make_boxed_func(compiler(graph, inputs))


def training_network():
    preset, overrides = NETWORKS["fpn"]
    return MaskRCNN(Config.preset(preset, class_names=["a", "b"], overrides={**overrides, **SMALL})).train()


def sgd(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)


def test_training_step_is_one_graph_each_way_and_equals_the_eager_one():
    eager = training_network()
    compiled, there, back = copy.deepcopy(eager), Noting(), Noting()
    steps = [
        compiled_step(eager, sgd(eager), torch.float32, compile=False),
        compiled_step(
            compiled, sgd(compiled), torch.float32, aot_autograd(fw_compiler=boxed(there), bw_compiler=boxed(back))
        ),
    ]
    results = []
    for step in steps:
        for seed in (1, 2):
            torch.manual_seed(seed)
            losses = step(torch.ones(2, 3, 96, 128), targets(2))
        results.append(losses)
    assert not any(loss.requires_grad for loss in results[0])
    torch.testing.assert_close(list(results[1]), list(results[0]), rtol=1e-4, atol=1e-5)
    for (name, a), b in zip(compiled.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert (len(there.graphs), len(back.graphs)) == (1, 1)
    asked = [name for names in (*there.graphs, *back.graphs) for name in names if any(word in name for word in ASKS)]
    assert asked == []


def test_bfloat16_step_keeps_weights_in_float32():
    model = training_network()
    before = copy.deepcopy(model.state_dict())
    step = compiled_step(model, sgd(model), torch.bfloat16, compile=False)
    losses = step(torch.randn(1, 3, 96, 128), targets(1))
    assert losses.total.isfinite()
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
