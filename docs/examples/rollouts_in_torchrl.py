"""TorchRL: the memory task of memory_task_in_gymnasium.py, by TorchRL's environments and its GRUModule, run by gru_xp.

python docs/examples/rollouts_in_torchrl.py
"""

import time

import torch
import torchrl.modules
from memory_task_in_gymnasium import FirstSign
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs import Compose, GymWrapper, InitTracker, SerialEnv, TransformedEnv
from torchrl.modules import OneHotCategorical, ProbabilisticActor, set_recurrent_mode

import gru_xp_torchrl

N, T, H, ROLLOUTS = 16, 32, 32, 50  # environments, steps of a rollout, hidden units, rollouts


def policy_and_environments(kind: type) -> tuple[ProbabilisticActor, TransformedEnv]:
    """The GRU and a linear layer, and N environments that know its state."""
    memory = kind(1, H, in_keys=["observation", "state"], out_keys=["features", ("next", "state")])
    linear = TensorDictModule(torch.nn.Linear(H, 2), in_keys=["features"], out_keys=["logits"])
    modules = TensorDictSequential(memory, linear)
    policy = ProbabilisticActor(
        modules, in_keys=["logits"], distribution_class=OneHotCategorical, default_interaction_type="random"
    )
    environments = SerialEnv(N, lambda: GymWrapper(FirstSign()))
    return policy, TransformedEnv(environments, Compose(InitTracker(), memory.make_tensordict_primer()))


def train(kind: type) -> tuple[list[float], float]:
    """The mean reward of each rollout, and the milliseconds to learn from one."""
    torch.manual_seed(0)
    policy, env = policy_and_environments(kind)
    env.set_seed(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-2)
    data, rewards, learning = env.reset(), [], []
    for _ in range(ROLLOUTS):
        with torch.no_grad():
            data = env.rollout(T, policy, break_when_any_done=False, auto_reset=False, tensordict=data)
        started = time.perf_counter()
        with set_recurrent_mode(True):
            answers = policy.get_dist(data.select("observation", "state", "is_init"))
        reward = data["next", "reward"][..., 0]
        loss = -(answers.log_prob(data["action"]) * (reward - reward.mean())).mean() - 0.01 * answers.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        learning.append(time.perf_counter() - started)
        rewards.append(float(reward.mean()))
        data = env.step_mdp(data[..., -1])
    return rewards, 1e3 * sorted(learning)[ROLLOUTS // 2]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, kind in (("torchrl", torchrl.modules.GRUModule), ("gru_xp_torchrl", gru_xp_torchrl.GRUModule)):
        rewards, milliseconds = train(kind)
        print(f"{name}.GRUModule: {sum(rewards[-10:]) / 10:.3f} right, {milliseconds:.2f} ms to learn from a rollout")
