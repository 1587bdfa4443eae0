"""Reinforcement learning with memory: what was the first thing that you saw in this episode?

An episode shows a random sign at each step and ends at random, and nothing that the agent sees says that a new one has
begun. So only an agent whose state is reset where an episode ends can know which sign was the first. It learns by
policy gradients from rollouts of N environments, each of which runs through the ends of episodes: `resets` says where
they are.

    python docs/examples/memory_task_in_gymnasium.py                        # one seed
    python docs/examples/memory_task_in_gymnasium.py --seeds 5 --sb3        # and with sb3-contrib's LSTM
"""

import argparse
import time
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch.distributions import Categorical

import gru_xp_torch

N, T, H, ROLLOUTS = 32, 32, 32, 100  # environments, steps of a rollout, hidden units, rollouts to learn from


class FirstSign(gymnasium.Env):
    """Reward 1 for naming the first sign of the episode, at each of its steps."""

    def __init__(self, mean_length: int = 20):
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.mean_length = mean_length

    def _see(self) -> np.ndarray:
        self.sign = int(self.np_random.integers(2))
        return np.array([2.0 * self.sign - 1.0], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        seen = self._see()
        self.first = self.sign
        return seen, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The next sign, and the reward for the answer to the last one."""
        ends = bool(self.np_random.random() < 1.0 / self.mean_length)
        return self._see(), float(action == self.first), ends, False, {}


class WithResets(torch.nn.Module):
    """Ours: one call over a rollout, whatever ends in it."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = gru_xp_torch.GRU(1, H)

    def step(self, x: torch.Tensor, h: torch.Tensor, begins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (N, 1), h (1, N, H), begins (N,) -> (N, H), the next h."""
        return self.gru.step(x, h, reset=begins)

    def forward(self, x: torch.Tensor, h: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """x (T, N, 1), begins (T, N) -> (T, N, H)."""
        return self.gru(x, h, resets=begins)[0]


class StepByStep(torch.nn.Module):
    """torch.nn.GRU: to reset its state, a rollout goes through it step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(1, H)

    def step(self, x: torch.Tensor, h: torch.Tensor, begins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As above."""
        y, h = self.gru(x[None], torch.where(begins[:, None], 0.0, h))
        return y[0], h

    def forward(self, x: torch.Tensor, h: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """As above."""
        ys = []
        for x_t, begins_t in zip(x, begins, strict=True):
            y, h = self.step(x_t, h, begins_t)
            ys.append(y)
        return torch.stack(ys)


class WithoutResets(StepByStep):
    """torch.nn.GRU in one call, which carries the state from each episode into the next."""

    def step(self, x: torch.Tensor, h: torch.Tensor, begins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As above."""
        y, h = self.gru(x[None], h)
        return y[0], h

    def forward(self, x: torch.Tensor, h: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        """As above."""
        return self.gru(x, h)[0]


def environments() -> SyncVectorEnv:
    """N of them; where one ends, the next observation is the first of a new episode."""
    return SyncVectorEnv([FirstSign] * N, autoreset_mode=AutoresetMode.SAME_STEP)


def train(kind: type, seed: int) -> tuple[float, float, float]:
    """The accuracy over the last fifth of the rollouts, environment steps a second, milliseconds to learn from one."""
    torch.manual_seed(seed)
    memory, policy = kind(), torch.nn.Linear(H, 2)
    weights = [*memory.parameters(), *policy.parameters()]
    optimizer = torch.optim.Adam(weights, lr=5e-3)
    env, h, rewards, learning = environments(), torch.zeros(1, N, H), [], []
    seen, begins = env.reset(seed=seed)[0], np.ones(N, bool)
    started = time.perf_counter()
    for _ in range(ROLLOUTS):
        first, steps = h, []
        with torch.no_grad():
            for _ in range(T):
                x, resets = torch.from_numpy(seen), torch.from_numpy(begins)
                y, h = memory.step(x, h, resets)
                action = Categorical(logits=policy(y)).sample()
                seen, reward, terminated, truncated, _ = env.step(action.numpy())
                steps.append((x, resets, action, torch.from_numpy(reward).float()))
                begins = terminated | truncated
        x, resets, action, reward = map(torch.stack, zip(*steps, strict=True))
        began = time.perf_counter()
        answers = Categorical(logits=policy(memory(x, first, resets)))
        # an answer changes nothing but its own reward, so that is all of its return
        loss = -(answers.log_prob(action) * (reward - reward.mean())).mean() - 0.01 * answers.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        learning.append(time.perf_counter() - began)
        rewards.append(float(reward.mean()))
    seconds = time.perf_counter() - started
    return float(np.mean(rewards[-ROLLOUTS // 5 :])), ROLLOUTS * T * N / seconds, 1e3 * float(np.median(learning))


def train_sb3(seed: int) -> tuple[float, float]:
    """sb3-contrib's recurrent PPO, whose memory is an LSTM: the same budget; accuracy, environment steps a second."""
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(FirstSign, n_envs=N, seed=seed)
    options = {"n_steps": T, "batch_size": N * T, "n_epochs": 1, "gamma": 0.0, "learning_rate": 5e-3, "ent_coef": 0.01}
    memory = {"lstm_hidden_size": H, "net_arch": [], "enable_critic_lstm": False}
    model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=memory, seed=seed, device="cpu", **options)
    started = time.perf_counter()
    model.learn(ROLLOUTS * T * N)
    seconds = time.perf_counter() - started
    seen, state, begins, right = env.reset(), None, np.ones(N, bool), []
    for _ in range(ROLLOUTS * T // 5):
        action, state = model.predict(seen, state, begins, deterministic=False)
        seen, reward, begins, _ = env.step(action)
        right.append(reward.mean())
    return float(np.mean(right)), ROLLOUTS * T * N / seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--sb3", action="store_true", help="sb3-contrib's recurrent PPO too")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # these products are small
    print(f"{'':30} accuracy from  to     steps/s  ms to learn from a rollout")
    for name, kind in (
        ("gru_xp_torch.GRU, resets", WithResets),
        ("torch.nn.GRU, step by step", StepByStep),
        ("torch.nn.GRU, without resets", WithoutResets),
    ):
        accuracies, speeds, times = zip(*(train(kind, seed) for seed in range(chosen.seeds)), strict=True)
        figures = f"{min(accuracies):.3f}  {max(accuracies):.3f}  {np.median(speeds):8.0f}  {np.median(times):8.2f}"
        print(f"{name:30}          {figures}", flush=True)
    if chosen.sb3:
        accuracies, speeds = zip(*(train_sb3(seed) for seed in range(chosen.seeds)), strict=True)
        print(
            f"{'sb3-contrib, LSTM':30}          {min(accuracies):.3f}  {max(accuracies):.3f}  {np.median(speeds):8.0f}"
        )
